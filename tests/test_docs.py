"""Every reference to documentation leads somewhere: the file is in the repository, and has the heading."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("mettle_cache", "pipelines", "cli", "tests", "docs")
SOURCES = sorted(
    [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".toml", ".md")]
    + [*ROOT.glob("*.md"), *ROOT.glob("*.toml")]
)
# docs/protocols/avel.md, "Pictures"; further headings of the same file follow with a comma or «and»
REFERENCE = re.compile(r'(docs/[\w/*]+\.md)((?:(?:,| and|, and)?\s+(?:its |the )?"[^"\n]{1,60}")*)')
HEADING = re.compile(r'"([^"]+)"')
# specifications that lie in nobody's checkout
FOREIGN = re.compile(r"\bspec-(avel|avvp|avs|avqa|methods)\b|\b(architecture|cache-format|consumer-machine|htsat)\.md")


def headings(path):
    return set(re.findall(r"^#+ (.+?)\s*$", path.read_text("utf-8"), flags=re.MULTILINE))


def references(path):
    """The files and headings that a source names; line breaks and comment marks inside a reference are blanks."""
    text = re.sub(r"\s*\n\s*(?:# ?|> ?)?", " ", path.read_text("utf-8"))
    for target, quoted in REFERENCE.findall(text):
        yield target, HEADING.findall(quoted)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_references_lead_somewhere(path):
    for target, named in references(path):
        files = sorted(ROOT.glob(target))
        assert files, f"{path} names {target}, which is not there"
        for heading in named:
            assert all(heading in headings(file) for file in files), f"{path}: {target} has no heading '{heading}'"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_reference_leaves_the_repository(path):
    text = path.read_text("utf-8")
    if path != Path(__file__):
        leaving = [match.group(0) for match in FOREIGN.finditer(text) if match.group(0) != "htsat.md"]
        leaving += re.findall(r"(?<!protocols/)\bhtsat\.md", text)
        assert not leaving, f"{path}: {leaving}"


def test_a_reference_over_two_lines_is_followed(tmp_path):
    source = tmp_path / "source.py"
    source.write_text('"""Heads (docs/protocols/avel.md, "Losses and labels" and\n"Segment accuracy")."""\n')
    assert list(references(source)) == [("docs/protocols/avel.md", ["Losses and labels", "Segment accuracy"])]
