"""What a file is by its first bytes: who reads it, and the message that says why it is not what its name promises."""

from __future__ import annotations

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer (fetch the file: git lfs pull)"),
    (b"#EXTM3U", "a playlist, which only names other files"),
    (b"ffconcat", "a playlist, which only names other files"),
    (b"[playlist]", "a playlist, which only names other files"),
    (b"v=0\r\n", "a description of a stream (SDP), which holds none"),
    (b"v=0\n", "a description of a stream (SDP), which holds none"),
    (b"GIF8", "a GIF"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"\xff\xd8\xff", "a JPEG"),
    (b"\x89PNG\r\n\x1a\n", "a PNG"),
    (b"8BPS", "a Photoshop document"),
    (b"%!PS", "a PostScript document"),
    (b"%PDF", "a PDF document"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (b"\xffO\xffQ", "a JPEG 2000"),
    (b"\xff\n", "a JPEG XL"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"v/1\x01", "an OpenEXR picture"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"GGUF", "a GGUF file"),
    (b"\x08\x07\x12", "an ONNX model"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x80\x04\x95", "a Python pickle"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"BZh", "compressed with bzip2"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (b"FLV\x01", "an FLV video"),
    (b"OggS", "an Ogg file"),
    (b"fLaC", "a FLAC recording"),
    (b"ID3", "an MP3 recording"),
)
_RIFF = {b"WAVE": "a WAV recording", b"AVI ": "an AVI video", b"WEBP": "a WebP picture"}
_BRANDS = {
    b"avif": "an AVIF picture",
    b"heic": "an HEIC picture",
    b"mif1": "an HEIC picture",
    b"heix": "an HEIC picture",
}
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"sidx", b"moof", b"pnot", b"uuid")
_CONTAINERS = (
    b"\x1a\x45\xdf\xa3",  # Matroska and WebM
    b"FLV\x01",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: .wmv and .wma
    b"\x00\x00\x01\xba",  # MPEG program stream
)
_TS_PACKETS = ((0, 188), (4, 192))
"""Where the first sync byte of an MPEG transport stream lies, and the distance to the next; M2TS adds four bytes."""
_SOUNDS = (b"fLaC", b"FORM", b".snd", b"caff", b"riff\x2e\x91\xcf\x11", b"NIST_1A")
_WAVES = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<body", b"<!--")


def begins_as_container(head: bytes) -> bool:
    """Whether a file holds streams that FFmpeg has to take apart."""
    if head[4:8] in _BOXES or head.startswith(_CONTAINERS) or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return True
    if any(head[at : at + 2 * step + 1 : step] == b"GGG" for at, step in _TS_PACKETS):
        return True
    return len(head) > 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0  # frames of AAC alone (ADTS)


def begins_as_sound(head: bytes) -> bool:
    """Whether a file is a recording and nothing else; Ogg files may be either."""
    return head.startswith(_SOUNDS) or (head[:4] in _WAVES and head[8:12] == b"WAVE") or _begins_as_mp3(head)


def _begins_as_mp3(head: bytes) -> bool:
    return len(head) > 2 and head[0] == 0xFF and head[1] & 0xE6 in (0xE2, 0xE4)


def describe_content(head: bytes) -> str:
    """What a file is that starts with ``head``, for example ``a web page``; 300 bytes tell every kind.

    >>> describe_content(b"<!DOCTYPE html><html>")
    'a web page (the download gave an error or a sign-in page)'
    """
    for start, what in _STARTS:
        if head.startswith(start):
            return what
    if head.startswith(b"RIFF") and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "an MP4 or QuickTime video")
    if _begins_as_mp3(head):
        return "an MP3 recording"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_PAGES):
        return "a web page (the download gave an error or a sign-in page)"
    if text.startswith((b"<?xml", b"<svg")):
        return "an XML or SVG document"
    if text.startswith((b'{"', b"[")):
        return "a JSON document"
    if head and not head.strip(b"\0"):
        return "all zeros at its start (never written, or lost with a disk)"
    if text and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return f"text ({head.decode('ascii').splitlines()[0][:40]!r})"
    return f"of another kind ({head[:8].hex(' ')} at its start)" if head else "empty"
