"""Files, folders, and archives that are hostile."""

from __future__ import annotations

import io
import os
import tarfile

import pytest

from cove import ConflictError, InvalidError, NotFoundError, Sandbox, UnsupportedError, WriteEntry


def test_text_bytes_and_file_objects_go_in_and_out(box: Sandbox, tmp_path):
    box.files.write("f/text", "größe\n")
    assert box.files.read("f/text") == "größe\n"
    data = os.urandom(3_000_000)
    for content in (data, bytearray(data), memoryview(data), io.BytesIO(data)):
        info = box.files.write("f/data", content)
        assert info.size == len(data)
        assert box.files.read("f/data", format="bytes") == data
    (tmp_path / "here").write_bytes(data)
    with open(tmp_path / "here", "rb") as file:
        box.files.write("f/data2", file, mode=0o600)
    assert b"".join(box.files.read("f/data2", "stream")) == data
    assert box.files.get_info("f/data2").mode & 0o777 == 0o600
    box.files.write("f/from-text", io.StringIO("ä" * 10))
    assert box.files.read("f/from-text") == "ä" * 10
    box.files.write("f/empty", "")
    assert box.files.read_bytes("f/empty") == b""


def test_directories(box: Sandbox):
    assert box.files.make_dir("d/deep") and not box.files.make_dir("d/deep")
    box.files.write_files({"d/a": "1", "d/deep/b": b"2"})
    box.files.write_files([WriteEntry("d/c", "3"), {"path": "d/e", "data": "4"}, ("d/f", "5")])
    assert sorted(e.name for e in box.files.list("d")) == ["a", "c", "deep", "e", "f"]
    assert "/workspace/d/deep/b" in [e.path for e in box.files.list("d", depth=2)]
    assert box.files.get_info("d").is_dir
    assert box.files.rename("d/a", "d/new/a").path == "/workspace/d/new/a"
    assert not box.files.exists("d/a") and box.files.exists("d/new/a")
    box.files.remove("d")
    box.files.remove("d")
    assert not box.files.exists("d")


def test_errors_of_files_have_classes(box: Sandbox):
    for call in (box.files.read, box.files.list, box.files.get_info):
        with pytest.raises(NotFoundError):
            call("/no/such/path")
    with pytest.raises((InvalidError, ConflictError)):
        box.files.read("/tmp")
    with pytest.raises(NotFoundError, match="on this machine"):
        box.files.upload("/no/such/path", "x")


def test_watching_misses_nothing_from_the_call_on(box: Sandbox):
    box.files.make_dir("/tmp/w")
    with box.files.watch_dir("/tmp/w", recursive=True) as watch:
        box.files.write("/tmp/w/a", "x")
        for event in watch:
            if (event.type, event.name) == ("create", "a"):
                break


def test_a_folder_goes_up_and_comes_down_as_it_was(box: Sandbox, tmp_path):
    source = tmp_path / "src"
    (source / "sub" / "empty").mkdir(parents=True)
    (source / "sub" / ("long" * 60)).write_bytes(os.urandom(700_000))
    (source / "tool").write_text("#!/bin/sh\n")
    (source / "tool").chmod(0o755)
    (source / "größe.txt").write_text("ä")
    (source / ".hidden").write_text("h")
    (source / "link").symlink_to("sub/empty")
    os.utime(source / "tool", (1_000_000_000, 1_000_000_000))
    box.files.upload(source, "up/there")
    assert box.commands.run("ls -A up/there | wc -l").stdout.strip() == "5"
    target = tmp_path / "back"
    box.files.download("up/there", target)

    def content(path):
        if path.is_symlink():
            return os.readlink(path)
        return None if path.is_dir() else path.read_bytes()

    def tree(root):
        return {str(p.relative_to(root)): (p.lstat().st_mode, content(p)) for p in root.rglob("*")}

    assert tree(target) == tree(source)
    assert os.stat(target / "tool").st_mtime == 1_000_000_000


def test_one_file_goes_up_and_comes_down(box: Sandbox, tmp_path):
    (tmp_path / "x.sh").write_text("#!/bin/sh\necho hi")
    (tmp_path / "x.sh").chmod(0o755)
    box.files.upload(tmp_path / "x.sh", "/tmp/one/")
    assert box.exec(["/tmp/one/x.sh"]).stdout == "hi\n"
    box.files.download("/tmp/one/x.sh", tmp_path / "new" / "y.sh")
    assert (tmp_path / "new" / "y.sh").read_text() == "#!/bin/sh\necho hi"
    (tmp_path / "dir").mkdir()
    box.files.download("/tmp/one/x.sh", tmp_path / "dir")
    assert (tmp_path / "dir" / "x.sh").exists()
    with pytest.raises(NotFoundError):
        box.files.download("/tmp/none", tmp_path / "none")
    assert sorted(os.listdir(tmp_path)) == ["dir", "new", "x.sh"]


def test_what_is_no_file_is_left_out_of_an_upload(box: Sandbox, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnsupportedError, match="pipe"):
        box.files.upload(tmp_path, "/tmp/left")
    assert box.files.read("/tmp/left/file") == "x"


def hostile(entries: list[tuple[str, dict[str, object], bytes]]) -> io.BytesIO:
    """Returns a tar of entries as they are given."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, fields, data in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            for field, value in fields.items():
                setattr(entry, field, value)
            tar.addfile(entry, io.BytesIO(data))
    out.seek(0)
    return out


LINK, HARD, DIR = {"type": tarfile.SYMTYPE}, {"type": tarfile.LNKTYPE}, {"type": tarfile.DIRTYPE}


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        pytest.param([("../out", {}, b"x")], "out", id="a name that leads up"),
        pytest.param([("a/../../out", {}, b"x")], "out", id="a name that leads up on its way"),
        pytest.param([("{out}/out", {}, b"x")], "out", id="an absolute name"),
        pytest.param([("l", {**LINK, "linkname": "{out}"}, b"")], "link", id="a symlink to an absolute path"),
        pytest.param([("l", {**LINK, "linkname": ".."}, b"")], "link", id="a symlink up"),
        pytest.param([("l", {**LINK, "linkname": "x/../.."}, b"")], "link", id="a symlink up on its way"),
        pytest.param(
            [("l", {**LINK, "linkname": ".."}, b""), ("l/out", {}, b"x")], "link", id="a file through a symlink up"
        ),
        pytest.param(
            [("d", DIR, b""), ("l", {**LINK, "linkname": "d"}, b""), ("l/x", {}, b"x")],
            "something else",
            id="a file through a symlink",
        ),
        pytest.param([("h", {**HARD, "linkname": "../secret"}, b"")], "link", id="a hard link up"),
        pytest.param([("h", {**HARD, "linkname": "{out}/secret"}, b"")], "link", id="a hard link to an absolute path"),
        pytest.param(
            [("l", {**LINK, "linkname": "x"}, b""), ("h", {**HARD, "linkname": "l"}, b"")],
            "link",
            id="a hard link to a symlink",
        ),
        pytest.param([("dev", {"type": tarfile.BLKTYPE, "devmajor": 8}, b"")], "neither", id="a block device"),
        pytest.param(
            [("null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, b"")], "neither", id="a device"
        ),
        pytest.param([("pipe", {"type": tarfile.FIFOTYPE}, b"")], "neither", id="a pipe"),
    ],
)
def test_T57_a_hostile_archive_writes_nothing_outside(tmp_path, entries, complaint):
    from cove._tar import unpack

    outside = tmp_path / "outside"
    target = outside / "target"
    target.mkdir(parents=True)
    (outside / "secret").write_text("secret")
    entries = [
        (
            name.format(out=outside),
            {k: v.format(out=outside) if isinstance(v, str) else v for k, v in fields.items()},
            data,
        )
        for name, fields, data in [*entries, ("good", {"mode": 0o6755}, b"good")]
    ]
    with pytest.raises(UnsupportedError, match=complaint):
        unpack(hostile(entries), str(target))
    assert sorted(os.listdir(outside)) == ["secret", "target"]
    assert (outside / "secret").stat().st_nlink == 1
    assert (target / "good").read_bytes() == b"good"
    assert (target / "good").stat().st_mode & 0o7777 == 0o755
    for directory, folders, files in os.walk(target):
        for name in folders + files:
            path = os.path.join(directory, name)
            assert os.path.realpath(path).startswith(str(target))
            assert os.path.isfile(path) or os.path.isdir(path) or os.path.islink(path)


def test_T57_symlinks_that_are_there_are_not_followed(tmp_path):
    from cove._tar import unpack

    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (outside / "victim").write_text("before")
    (target / "dir").symlink_to(outside)
    (target / "file").symlink_to(outside / "victim")
    with pytest.raises(UnsupportedError, match="something else"):
        unpack(hostile([("dir/new", {}, b"x"), ("file", {}, b"after")]), str(target))
    assert os.listdir(outside) == ["victim"] and (outside / "victim").read_text() == "before"
    assert (target / "file").read_text() == "after" and not (target / "file").is_symlink()


def test_T57_a_guest_that_lies_about_its_folder_harms_nothing(box: Sandbox, tmp_path):
    box.commands.run(
        "mkdir -p /tmp/evil/d && cd /tmp/evil && ln -s / root && ln -s ../../etc up && mkfifo p && echo x > d/ok",
        check=True,
    )
    with pytest.raises(UnsupportedError, match="left out"):
        box.files.download("/tmp/evil", tmp_path / "got")
    assert (tmp_path / "got" / "d" / "ok").read_text() == "x\n"
    assert sorted(os.listdir(tmp_path / "got")) == ["d"]


def test_a_broken_archive_is_an_error(tmp_path):
    from cove import UnavailableError
    from cove._tar import unpack

    whole = hostile([("a", {}, b"x" * 5000)]).getvalue()
    for broken in (whole[:2000], b"no tar at all" * 100):
        with pytest.raises(UnavailableError):
            unpack(io.BytesIO(broken), str(tmp_path))
