"""However much is printed, a bounded beginning and end are kept, and whoever prints for ever is not waited for."""

import os
import subprocess
import sys
from pathlib import Path

from tradeoff.objectives.isolation.output import KEPT, Output


def printed(code: str) -> str:
    with Output() as output:
        subprocess.run([sys.executable, "-c", code], stdout=output.writing, check=True)
        return output.end()


def test_little_is_kept_as_it_is() -> None:
    assert printed("print('one'); print('two')") == "one\ntwo\n"


def test_of_much_the_beginning_and_the_end_are_kept_and_a_line_says_so() -> None:
    text = printed("import os\nos.write(1, b'begin')\nfor _ in range(64): os.write(1, b'x' * 2**20)\nos.write(1, b'end')")
    assert text.startswith("beginx")
    assert text.endswith("xend")
    left_out = 64 * 2**20 + len("beginend") - 2 * KEPT
    assert f"\n[tradeoff: {left_out:,} bytes are left out here; the first and the last 1,048,576 are kept]\n" in text
    assert len(text) < 2 * KEPT + 200


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    assert printed(r"import os; os.write(1, b'\xff\xfe\x00ok')") == "\ufffd\ufffd\x00ok"


def test_what_is_full_to_the_byte_is_whole() -> None:
    assert printed(f"import os; os.write(1, b'a' * {KEPT}); os.write(1, b'b' * {KEPT})") == "a" * KEPT + "b" * KEPT


def test_a_process_that_prints_for_ever_is_not_waited_for() -> None:
    with Output() as output:
        code = "import os\nos.write(1, b'begin')\nos.write(2, b'!')\nwhile True: os.write(1, b'y' * 4096)"
        process = subprocess.Popen([sys.executable, "-c", code], stdout=output.writing, stderr=subprocess.PIPE)
        assert process.stderr is not None
        assert process.stderr.read(1)  # by now it has begun
        assert output.end().startswith("begin")
        process.stderr.close()
    process.wait()  # nobody reads its pipe any more
    assert process.returncode != 0


def test_no_descriptor_is_left_open() -> None:
    before = set(Path("/proc/self/fd").iterdir())
    printed("print()")
    assert set(Path("/proc/self/fd").iterdir()) - before <= {Path("/proc/self/fd") / str(os.getpid())}
