"""Files that are damaged, hostile or something else: one ValueError that names the file, and little memory."""

import io
import json
import os
import pickle
import stat
import struct
import subprocess
import sys
import textwrap
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from gpulstm.interop.keras import from_keras
from tests.keras_bad_files import CELL, MODEL, SHAPES, archive, hdf5, loaded, refused

ROOT = Path(__file__).parents[1]


def test_the_good_ones(tmp_path):
    wanted = loaded(tmp_path, archive()).params
    for raw in (hdf5(), hdf5(legacy=True), archive(compression=zipfile.ZIP_STORED)):
        found = loaded(tmp_path, raw).params
        assert all((found[name] == wanted[name]).all() for name in wanted)


class TestNoSuchThing:
    def test_where_there_is_none(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere.keras"):
            from_keras(tmp_path / "nowhere.keras")
        with pytest.raises(IsADirectoryError, match="folder"):
            from_keras(tmp_path)

    @pytest.mark.parametrize(
        ("raw", "wanted"),
        [
            (b"", "it is empty"),
            (b"P", "neither a zip archive"),
            (b"PK", "none"),
            (b"PK\3\4" + bytes(40), "truncated"),
            (b"\x89HDF\r\n\x1a\n", "too short"),
            (b"\x89HDF\r\n\x1a\n" + bytes(200), "addresses must have 8 bytes"),
            (pickle.dumps({"a": 1}), "a pickle, which is never read"),
            (b"hello, world", "neither a zip archive"),
            (json.dumps(MODEL).encode(), "neither a zip archive"),
        ],
    )
    def test_something_else(self, tmp_path, raw, wanted):
        refused(tmp_path, raw, wanted)

    def test_a_pickle_in_the_archive_is_data(self, tmp_path):
        class Boom:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "it ran"),))

        for name in ("config.json", "metadata.json", "model.weights.h5"):
            raw = {"config.json": json.dumps(MODEL), "metadata.json": "{}", "model.weights.h5": hdf5()}
            raw[name] = pickle.dumps(Boom())
            refused(tmp_path, archive(raw.items(), good=False), "is not JSON|does not begin as an HDF5|too short")
        assert not (tmp_path / "it ran").exists()


class TestDamage:
    """Whatever is read is wrong in a few bytes. A crash or a hang would end the child process and be seen."""

    SCRIPT = """
        import sys, resource, numpy as np
        from gpulstm.interop.keras import from_keras
        good, path, seed = open(sys.argv[1], "rb").read(), sys.argv[2], int(sys.argv[3])
        from_keras(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
        before, rng, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, np.random.default_rng(seed), 0
        cuts = [good[:n] for n in (*range(0, 300, 7), *rng.integers(300, len(good), 100))]
        flips = []
        for _ in range(400):
            raw = bytearray(good)
            for at in rng.integers(len(raw), size=rng.integers(1, 5)):
                raw[at] = rng.choice([0, 1, 255, raw[at] ^ 1 << rng.integers(8)])
            flips.append(bytes(raw))
        for raw in cuts + flips:
            open(path, "wb").write(raw)
            try:
                from_keras(path)
            except ValueError as error:
                assert path in str(error), error
                refused += 1
            else:
                assert len(raw) == len(good)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert refused >= len(cuts) and grown < 2**14, (refused, grown)
        print("ok")
    """

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource limits")
    @pytest.mark.parametrize("kind", ["keras", "weights.h5", "h5"])
    def test_cut_off_or_with_wrong_bytes(self, tmp_path, kind):
        good = {"keras": archive(), "weights.h5": hdf5(), "h5": hdf5(legacy=True)}[kind]
        (tmp_path / f"good.{kind}").write_bytes(good)
        arguments = [str(tmp_path / f"good.{kind}"), str(tmp_path / f"bad.{kind}"), "1"]
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(self.SCRIPT), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0 and done.stdout.strip() == "ok", done.stderr[-2000:]

    def test_every_byte_of_an_archives_weights_is_checked(self, tmp_path):
        raw = archive()
        at = raw.index(b"\x89HDF") + 2100
        for bit in range(8):
            wrong = raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
            refused(tmp_path, wrong, "model.weights.h5 is damaged: the checksum is wrong")


class TestArchives:
    @pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "..\\x", "C:\\x", "C:/x", "a//b", "./x", "a\\b"])
    def test_paths_that_lead_out(self, tmp_path, name):
        entry = zipfile.ZipInfo("x")
        entry.filename = name
        refused(tmp_path, archive([(entry, "1")]), "member", "leads out of the archive")
        assert not list(tmp_path.parent.glob("x"))

    def test_a_symbolic_link(self, tmp_path):
        entry = zipfile.ZipInfo("assets/link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        refused(tmp_path, archive([(entry, "/etc/passwd")]), "'assets/link' is a symbolic link")

    @pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # zipfile says it of what is wanted here
    def test_a_member_twice(self, tmp_path):
        refused(tmp_path, archive([("config.json", "{}")]), "'config.json' is there twice")

    def test_encrypted(self, tmp_path):
        raw = bytearray(archive())
        for signature, at in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
            raw[raw.index(signature) + at] |= 1
        refused(tmp_path, bytes(raw), "is encrypted")

    @pytest.mark.parametrize("name", ["config.json", "metadata.json", "model.weights.h5"])
    def test_a_missing_member(self, tmp_path, name):
        raw = {"config.json": json.dumps(MODEL), "metadata.json": "{}", "model.weights.h5": hdf5()}
        del raw[name]
        refused(tmp_path, archive(raw.items(), good=False), f"no member {name}, got")

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_other_compressions(self, tmp_path, method):
        refused(tmp_path, archive(compression=method), "config.json is compressed in a way")

    def test_compressed_json_loads_and_compressed_weights_are_refused(self, tmp_path):
        raw = {"config.json": json.dumps(MODEL), "metadata.json": "{}"}
        parts = [(name, text) for name, text in raw.items()]
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name, text in parts:
                file.writestr(name, text, zipfile.ZIP_DEFLATED)
            file.writestr("model.weights.h5", hdf5())
        assert loaded(tmp_path, buffer.getvalue()).layout.hidden_size == 5
        refused(tmp_path, archive(compression=zipfile.ZIP_DEFLATED), "model.weights.h5 is compressed")

    @pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
    def test_bombs(self, tmp_path, name):
        """Sixty-four MiB of zeros in sixty-four KiB."""
        raw = {"config.json": json.dumps(MODEL), "metadata.json": "{}", "model.weights.h5": hdf5()}
        raw[name] = bytes(2**26)
        bomb = archive(raw.items(), good=False, compression=zipfile.ZIP_DEFLATED)
        refused(tmp_path, bomb, f"{name} (would inflate|is compressed)", factor=4)

    @pytest.mark.parametrize("size", [2**20, 2**31, 2**32 - 2])
    def test_sizes_that_are_not_there(self, tmp_path, size):
        raw = bytearray(archive())
        at = raw.rindex(b"PK\1\2")  # of the weights, in the table of contents
        struct.pack_into("<II", raw, at + 20, size, size)
        refused(tmp_path, bytes(raw), "truncated")

    def test_a_table_of_contents_that_would_fill_the_memory(self, tmp_path):
        many = archive([(f"assets/{n}", "") for n in range(6000)])
        refused(tmp_path, many, "table of contents has")

    def test_members_that_overlap_are_only_read(self, tmp_path):
        raw = bytearray(archive())
        first = raw.index(b"PK\1\2")
        struct.pack_into("<I", raw, first + 42, raw.index(b"config.json") - 30)  # metadata.json points at the config
        refused(tmp_path, bytes(raw), "'metadata.json' is damaged")


class TestJson:
    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("", "is not JSON"),
            ("[]", "must be a JSON object, got list"),
            ("[" * 5000, "is not JSON"),
            ('{"a":' * 2000 + "1" + "}" * 2000, "is not JSON"),
            ("[" + "[]," * 10**6 + "[]]", "would take .* bytes of memory"),
            ("{" + '"a":{},' * 10**5 + '"b":1}', "would take .* bytes of memory"),
            (b"\xff\xfe{}", "is not JSON"),
            ("{}", "does not describe|must have an LSTM"),
            ('{"class_name": "LSTM"}', "must be an object"),
            ('{"class_name": "Sequential", "config": {"layers": [1, null, {}, []]}}', "describe"),
        ],
    )
    def test_what_is_no_configuration(self, tmp_path, text, wanted):
        raw = [("config.json", text), ("metadata.json", "{}"), ("model.weights.h5", hdf5())]
        refused(tmp_path, archive(raw, good=False), wanted, floor=2**21)

    @pytest.mark.parametrize(
        ("change", "wanted"),
        [
            ({"units": 6}, r"recurrent_kernel must have shape \(hidden, 4\*hidden\) = \(6, 24\), got \(5, 20\)"),
            ({"units": -1}, "units of layer 'lstm' must be a positive"),
            ({"units": 10**30}, "do not fit"),
            ({"units": "5"}, "units of layer 'lstm' must be a positive"),
            ({"use_bias": False}, "must have arrays for use_bias=False"),
            ({"use_bias": 1}, "must be true or false"),
            ({"activation": {"class_name": "function", "config": "os.system"}}, "must be one of .* got 'os.system'"),
            ({"activation": ["tanh"]}, "must be one of"),
            ({"time_major": True}, "cannot hold time_major=True"),
            ({"lora_rank": 4}, "cannot hold lora_rank=4"),
            ({"dtype": {"class_name": "QuantizedDTypePolicy", "config": {"name": "int8_from_float32"}}}, "quantised"),
            ({"dropout": 0.5}, "cannot hold dropout=0.5"),
            ({"name": "other"}, "must have the arrays of layer 'other' once"),
        ],
    )
    def test_options(self, tmp_path, change, wanted):
        config = json.loads(json.dumps(MODEL))
        config["config"]["layers"][0]["config"] |= change
        raw = [("config.json", json.dumps(config)), ("metadata.json", "{}"), ("model.weights.h5", hdf5())]
        refused(tmp_path, archive(raw, good=False), wanted)

    def test_a_class_of_another_package(self, tmp_path):
        config = json.loads(json.dumps(MODEL))
        config["config"]["layers"][0] |= {"module": "mine", "registered_name": "mine>LSTM"}
        raw = [("config.json", json.dumps(config)), ("metadata.json", "{}"), ("model.weights.h5", hdf5())]
        refused(tmp_path, archive(raw, good=False), "must be Keras' own LSTM")


def _replaced(**how):
    def change(file):
        del file[f"{CELL}/1"]
        file.create_dataset(f"{CELL}/1", **how)

    return change


def _link(where, target):
    def change(file):
        if where in file:
            del file[where]
        file[where] = target

    return change


def _hard_link_in_a_loop(file):
    file["layers/lstm/loop"] = file["layers"]


def _virtual(file):
    del file[f"{CELL}/1"]
    layout = h5py.VirtualLayout((5, 20), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (5, 20), "f4")
    file.create_virtual_dataset(f"{CELL}/1", layout)


def _huge_and_empty(file):
    del file[f"{CELL}/1"]
    file.create_dataset(f"{CELL}/1", (2**20, 2**22), "f4")


VALUES = np.ones((5, 20), "float32")


class TestHdf5:
    CASES = {
        "external link": (_link(f"{CELL}/1", h5py.ExternalLink("/etc/passwd", "x")), "1 is an external link"),
        "soft link": (_link(f"{CELL}/1", h5py.SoftLink(f"/{CELL}/0")), "1 is a soft link"),
        "soft link in a loop": (_link(f"{CELL}/1", h5py.SoftLink(f"/{CELL}/1")), "1 is a soft link"),
        "soft link to a group": (_link("layers/other", h5py.SoftLink("/layers")), "other is a soft link"),
        "external link to a group": (_link("layers/other", h5py.ExternalLink("x.h5", "/")), "an external link"),
        "hard links in a loop": (_hard_link_in_a_loop, "two links lead to one object"),
        "external storage": (
            _replaced(shape=(5, 20), dtype="f4", external=[("/etc/passwd", 0, 400)]),
            "1 has its values in another file",
        ),
        "virtual": (_virtual, "1 has (its values in other datasets|a layout)"),
        "chunks": (_replaced(data=VALUES, chunks=(5, 20)), "1 has its values in chunks"),
        "gzip": (_replaced(data=VALUES, compression="gzip"), "1 is compressed"),
        "bomb": (_replaced(data=np.zeros((2000, 8000), "f4"), compression="gzip"), "1 is compressed"),
        "declared huge": (_huge_and_empty, r"1 has (no values stored|shape \(1048576, 4194304\))"),
        "integers": (_replaced(data=VALUES.astype(int)), "1 must hold floating-point numbers, got .*integer"),
        "complex": (_replaced(data=VALUES.astype(complex)), "1 must hold floating-point .*(compound|complex)"),
        "longdouble": (_replaced(data=VALUES.astype("longdouble")), "1 must hold (IEEE|floating)"),
        "strings": (_replaced(data=np.array([b"abc"] * 20)), "1 must hold floating-point numbers, got .*string"),
        "vlen strings": (_replaced(shape=(5,), dtype=h5py.string_dtype()), "got .*variable-length"),
        "vlen floats": (_replaced(shape=(5,), dtype=h5py.vlen_dtype("f4")), "got .*variable-length"),
        "references": (_replaced(shape=(5,), dtype=h5py.ref_dtype), "got .*reference"),
        "opaque": (_replaced(data=np.zeros((5, 20), "V4")), "got .*opaque"),
        "enumeration": (_replaced(shape=(5,), dtype=h5py.enum_dtype({"a": 1}, "i1")), "got .*enum"),
        "no axes": (_replaced(data=np.float32(1)), r"recurrent_kernel must have shape .* got \(\)"),
        "empty": (_replaced(data=h5py.Empty("f4")), "1 has a damaged or empty shape"),
        "no size": (_replaced(data=np.zeros((0, 20), "f4")), "recurrent_kernel must have"),
        "transposed": (_replaced(data=VALUES.T), r"= \(5, 20\), got \(20, 5\); is it transposed"),
        "another size": (_replaced(data=np.ones((6, 24), "f4")), r"kernel .*= \(4, 24\), got \(4, 20\).*bias"),
        "another dtype": (_replaced(data=VALUES.astype("f8")), "must have one dtype, got float32, float64"),
    }

    @pytest.mark.parametrize("name", CASES)
    def test_refused(self, tmp_path, name):
        change, wanted = self.CASES[name]
        refused(tmp_path, hdf5(change), wanted, name="bad.weights.h5")

    def test_a_newer_layout_of_the_format(self, tmp_path):
        with h5py.File(tmp_path / "new.h5", "w", libver="latest") as file:
            file["x"] = VALUES
        refused(tmp_path, (tmp_path / "new.h5").read_bytes(), "newer layout of HDF5", name="new.h5")

    def test_one_dataset_under_many_names(self, tmp_path):
        """A file of some KiB whose every layer has the same MiB would ask for any amount of memory."""

        def change(file):
            for number in range(1, 40):
                for name in SHAPES:
                    file[f"layers/lstm_{number}/cell/vars/{name}"] = file[f"{CELL}/{name}"]

        refused(tmp_path, hdf5(change), "two links lead to one object", name="many.weights.h5")

    def test_an_index_that_leads_to_the_same_bytes_again_and_again(self, tmp_path):
        """Nine levels of thirty-two entries, all to one node of the next level: 2**45 ways to an empty one."""
        raw = bytearray(hdf5())
        below = len(raw)
        raw += b"SNOD" + struct.pack("<BBH", 1, 0, 0)
        for level in range(9):
            node = struct.pack("<4sBBHQQ", b"TREE", 0, level, 32, 2**64 - 1, 2**64 - 1)
            raw, below = raw + node + struct.pack("<QQ", 0, below) * 32 + bytes(8), len(raw)
        assert struct.unpack_from("<Q", raw, 0x78) == struct.unpack_from("<Q", raw, 0x50)  # of the root group's index
        struct.pack_into("<Q", raw, 0x78, below)
        refused(tmp_path, bytes(raw), "the same bytes again and again", name="bad.h5")

    def test_big_endian_arrays_are_converted(self, tmp_path):
        for dtype in (">f4", "<f4", ">f8"):
            values = np.random.default_rng(1).normal(size=(5, 20)).astype(dtype)

            def change(file, values=values):
                for name, shape in SHAPES.items():
                    del file[f"{CELL}/{name}"]
                    file[f"{CELL}/{name}"] = np.resize(values, shape)

            found = loaded(tmp_path, hdf5(change), "big.weights.h5")
            assert found.params["weight_hh_l0"].dtype == values.dtype.newbyteorder("=")
            assert (found.params["weight_hh_l0"].T == values).all()

    def test_an_archive_of_one_is_refused_alike(self, tmp_path):
        raw = hdf5(_link(f"{CELL}/1", h5py.ExternalLink("/etc/passwd", "x")))
        parts = [("config.json", json.dumps(MODEL)), ("metadata.json", "{}"), ("model.weights.h5", raw)]
        refused(tmp_path, archive(parts, good=False), "1 is an external link")


def test_a_large_file_is_not_read_before_it_is_checked(tmp_path):
    """Thirty-two MiB of weights whose shapes do not fit: only headers are read."""
    raw = hdf5(_replaced(data=np.zeros((1000, 8000), "f4")))
    assert len(raw) > 3e7
    (tmp_path / "large.weights.h5").write_bytes(raw)
    tracemalloc.start()
    with pytest.raises(ValueError, match="do not fit"):
        from_keras(tmp_path / "large.weights.h5")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
