"""The reference of the study file is the model's own words, and up to date."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from tradeoff.searchspace import KNOBS
from tradeoff.studies.config.reference import COMMAND, reference
from tradeoff.studies.config.study import StudyConfig

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "study-file.md"


def test_the_page_is_what_the_model_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), f"docs/reference/study-file.md is out of date: {COMMAND}"


def test_every_key_of_the_space_has_a_description_and_a_line() -> None:
    page = reference()
    for name, knob in KNOBS.items():
        assert knob.description
        assert f"| `{name}` | " in page


def test_a_union_of_jobs_is_a_section_for_each() -> None:
    class OneJob(BaseModel):
        """The first kind."""

        epochs: float = Field(3, gt=0, description="passes")

    class OtherJob(BaseModel):
        """The second kind."""

        build: str = Field(min_length=1, description="a function")

    class File(BaseModel):
        job: Annotated[OneJob | OtherJob, Field(description="what is trained")] = OneJob()
        seed: int | None = Field(None, le=9, description="of the draw")

    page = reference(File)
    assert "| `job` | see [job](#job-one-job) |  | what is trained |" in page
    assert "| `seed` | whole number or null, at most 9 | `null` | of the draw |" in page
    assert "## job: one job\n\nThe first kind.\n" in page
    assert "| `epochs` | number, above 0 | `3` | passes |" in page
    assert "## job: other job\n\nThe second kind.\n" in page
    assert "| `build` | text | required | a function |" in page


def test_no_key_of_a_study_is_left_out() -> None:
    page = reference()
    assert all(f"| `{name}` |" in page for name in StudyConfig.model_fields)
