"""What pages say holds: links lead somewhere, messages are in the sources, the container copies what is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "FORMAT.md", ROOT / "BENCHMARKS.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
VARIES = "…"


def anchors(path):
    """What `file.md#anchor` may name: headings as GitHub and MyST write them."""
    lines = re.findall(r"^#+ (.+?)\s*$", path.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in LINK.findall(text):
        target, _, anchor = link.partition("#")
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file = (path.parent / target) if target else path
        assert file.exists(), f"{path}: {link}"
        assert not anchor or anchor in anchors(file), f"{path}: {link} names no heading"


def test_every_page_is_in_the_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    listed = {
        line for block in re.findall(r"^```\{toctree\}.*?^```", index, re.M | re.S) for line in block.splitlines()
    }
    sources = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".ipynb") and path.stem != "index"]
    assert {str(path.relative_to(ROOT / "docs").with_suffix("")) for path in sources} <= listed


def literal_pieces(node):
    """The literal parts of a string in the sources, in order; None for what is no string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [part.value if isinstance(part, ast.Constant) else VARIES for part in node.values]
    return None


@cache
def source_messages():
    """Every string of the sources, with one mark for whatever varies, blanks made one."""
    found = set()
    for folder in ("mettle_cache", "pipelines", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                pieces = literal_pieces(node)
                if pieces:
                    found.add("".join(pieces))
    return found


def quoted_messages():
    text = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    return re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)


def is_of(message, source):
    """Whether the sources' string begins as the quoted message does; what the page marks as varying may be anything."""
    return re.match(VARIES.join(map(re.escape, message.split(VARIES))).replace(VARIES, ".*?"), source) is not None


def test_the_messages_of_troubleshooting_are_those_of_the_sources():
    quoted = quoted_messages()
    assert len(quoted) > 45
    long_enough = [message for message in source_messages() if len(message.replace(VARIES, "").strip()) > 3]
    lost = [message for message in quoted if not any(is_of(message, source) for source in long_enough)]
    assert not lost


def test_a_message_that_nobody_raises_is_found():
    assert not is_of("… is busy: …", "… is being written by …")
    assert is_of("there is no … in …", "there is no … in …, which has none")


def test_the_container_copies_what_is_there_and_its_arguments_are_described():
    recipe = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in recipe.splitlines() if line and not line.startswith("#")]
    assert {word for word, _ in steps} <= {
        "ARG",
        "FROM",
        "ENV",
        "RUN",
        "WORKDIR",
        "COPY",
        "USER",
        "VOLUME",
        "ENTRYPOINT",
        "CMD",
    }
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copied = {source for word, rest in steps if word == "COPY" for source in rest.split()[:-1]}
    assert copied == kept
    assert all((ROOT / source).exists() for source in copied)
    page = (ROOT / "docs" / "container.md").read_text("utf-8")
    arguments = {rest.partition("=")[0] for word, rest in steps if word == "ARG"}
    assert arguments == {"PYTHON_VERSION", "PIP_INDEX_URL", "TORCH_INDEX_URL"}
    assert all(f"| `{argument}` |" in page for argument in arguments)
    users = [rest for word, rest in steps if word == "USER"]
    assert users == ["mettle"]
    versions = dict(
        re.findall(r'"(torch|torchvision|torchaudio)==([\d.]+)', (ROOT / "pyproject.toml").read_text("utf-8"))
    )
    assert all(f"{name}=={version}" in recipe for name, version in versions.items())
