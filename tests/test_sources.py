"""gpulstm.cuda.sources: the kernels are found, and each is handed over as one text."""

import re

import pytest

from gpulstm.cuda import sources


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An own kernel folder, in the place of the real one."""
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    monkeypatch.setattr(sources, "kernel_folder", lambda: kernels)
    return kernels


def test_every_kernel_reads_as_one_text_without_local_includes():
    assert sources.names(), "no kernel files found"
    for name in sources.names():
        text = sources.read(name)
        assert not re.search(r'^\s*#\s*include\s*"', text, re.MULTILINE), name
        assert 'extern "C"' in text, name


def test_a_header_is_pasted_once_where_it_is_first_included(folder):
    (folder / "a.cu").write_text('#include "one.cuh"\n#include "two.cuh"\nint last;\n')
    (folder / "one.cuh").write_text("#pragma once\nint one;\n")
    (folder / "two.cuh").write_text('#pragma once\n#include "one.cuh"\nint two;\n')
    code = [line for line in sources.read("a.cu").splitlines() if line.startswith("int")]
    assert code == ["int one;", "int two;", "int last;"]
    assert "#pragma once" not in sources.read("a.cu")


def test_headers_that_include_each_other_end(folder):
    (folder / "a.cu").write_text('#include "one.cuh"\n')
    (folder / "one.cuh").write_text('#include "two.cuh"\nint one;\n')
    (folder / "two.cuh").write_text('#include "one.cuh"\nint two;\n')
    code = [line for line in sources.read("a.cu").splitlines() if line.startswith("int")]
    assert code == ["int two;", "int one;"]


def test_a_system_header_and_a_commented_include_are_left_alone(folder):
    text = '#include <cuda_bf16.h>\n// #include "gone.cuh"\nint a;\n'
    (folder / "a.cu").write_text(text)
    assert sources.read("a.cu") == '#line 1 "a.cu"\n' + text


def test_compiler_messages_name_the_right_file_and_line(folder):
    (folder / "a.cu").write_text('int before;\n#include "inner.cuh"\n\n#error in a, line 4\n')
    (folder / "inner.cuh").write_text("#pragma once\n\n#error in inner, line 3\n")
    located, place = {}, None
    for line in sources.read("a.cu").splitlines():
        directive = re.fullmatch(r'#line (\d+) "(.+)"', line)
        if directive:
            place = [directive[2], int(directive[1])]
            continue
        if line.startswith("#error"):
            located[line] = tuple(place)
        place[1] += 1
    assert located == {"#error in a, line 4": ("a.cu", 4), "#error in inner, line 3": ("inner.cuh", 3)}


def test_a_header_in_a_subfolder_is_found_from_where_it_is_named(folder):
    (folder / "parts").mkdir()
    (folder / "a.cu").write_text('#include "parts/one.cuh"\n')
    (folder / "parts" / "one.cuh").write_text('#include "two.cuh"\nint one;\n')
    (folder / "parts" / "two.cuh").write_text("int two;\n")
    assert '#line 1 "parts/two.cuh"\nint two;' in sources.read("a.cu")


def test_an_include_inside_a_condition_is_refused(folder):
    (folder / "a.cu").write_text('#ifdef HALF\n#include "one.cuh"\n#endif\n')
    (folder / "one.cuh").write_text("int one;\n")
    with pytest.raises(ValueError, match=r"a\.cu:2: a local header is included inside #if"):
        sources.read("a.cu")


def test_an_include_after_a_closed_condition_is_fine(folder):
    (folder / "a.cu").write_text('#if 1\n#endif\n#include "one.cuh"\n')
    (folder / "one.cuh").write_text("int one;\n")
    assert "int one;" in sources.read("a.cu")


@pytest.mark.parametrize("header", ["gone.cuh", "../outside.cuh"])
def test_a_header_that_is_not_in_the_folder_is_named(folder, header):
    (folder.parent / "outside.cuh").write_text("int outside;\n")
    (folder / "a.cu").write_text(f'int a;\n#include "{header}"\n')
    with pytest.raises(ValueError, match=rf'a\.cu:2: #include "{re.escape(header)}" names no file'):
        sources.read("a.cu")


@pytest.mark.parametrize("name", ["gone.cu", "../kernels/a.cu", "one.cuh", ""])
def test_an_unknown_kernel_is_answered_with_the_known_ones(folder, name):
    (folder / "a.cu").write_text("int a;\n")
    (folder / "one.cuh").write_text("int one;\n")
    with pytest.raises(ValueError, match=r"name must be one of the kernel files a\.cu, got "):
        sources.read(name)


def test_the_folder_inside_the_package_comes_first(tmp_path):
    package = tmp_path / "gpulstm"
    (package / "kernels").mkdir(parents=True)
    (tmp_path / "kernels").mkdir()
    (tmp_path / "pyproject.toml").touch()
    assert sources._find(package) == package / "kernels"


def test_a_folder_beside_the_package_counts_only_in_a_checkout(tmp_path):
    package = tmp_path / "gpulstm"
    package.mkdir()
    (tmp_path / "kernels").mkdir()
    with pytest.raises(FileNotFoundError, match="CUDA sources were not found.*install gpulstm again"):
        sources._find(package)
    (tmp_path / "pyproject.toml").touch()
    assert sources._find(package) == tmp_path / "kernels"
