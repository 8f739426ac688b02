// On paper each plot gets half the width, set in numbers: a browser tells the page of printing before it has laid it out for paper.
const PRINT_WIDTH_PX = 330;
const PRINT_HEIGHT_PX = 290;
const figures = JSON.parse(document.getElementById("figures").textContent);
const settings = {responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false};
function draw(element) {
  if (element.dataset.drawn) return;
  element.dataset.drawn = "1";
  const figure = figures[element.id];
  Plotly.newPlot(element, figure.data, figure.layout, settings);
}
const plots = document.querySelectorAll(".plot");
// A plot is drawn when it comes near the screen: a phone needs seconds for a dozen.
const watcher = new IntersectionObserver((seen) => {
  for (const entry of seen) if (entry.isIntersecting) { watcher.unobserve(entry.target); draw(entry.target); }
}, {rootMargin: "600px"});
plots.forEach((element) => watcher.observe(element));
const printed = Array.from(plots).filter((element) => !element.closest(".screen"));
window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((element) => { element.open = true; });
  printed.forEach((element) => {
    draw(element);
    const height = Math.min(PRINT_HEIGHT_PX, element.clientHeight);
    Plotly.relayout(element, {autosize: false, width: PRINT_WIDTH_PX, height: height});
  });
});
window.addEventListener("afterprint", () => {
  printed.forEach((element) => {
    const height = figures[element.id].layout.height || null;
    Plotly.relayout(element, {autosize: true, width: null, height: height});
  });
});
