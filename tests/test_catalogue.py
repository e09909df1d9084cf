"""The table of kernels agrees with the files and with the page that describes them."""

import re

from gpulstm.cuda import catalogue, layer_norm_layouts, sources

DEFINITION = re.compile(
    r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(?:__cluster_dims__\([^)]*\) )?(\w+)\('
)


def defined(file: str) -> list[str]:
    return DEFINITION.findall((sources.kernel_folder() / file).read_text(encoding="utf-8"))


def test_every_kernel_of_every_file_is_in_the_catalogue():
    found = {(entry, file) for file in sources.names() for entry in defined(file)}
    assert found == {(entry, file) for entry, (file, _) in catalogue.KERNELS.items()}


def test_switches_are_those_that_the_file_reads():
    for entry, (file, switches) in catalogue.KERNELS.items():
        text = (sources.kernel_folder() / file).read_text(encoding="utf-8")
        assert set(re.findall(r"#if (\w+)", text)) == set(switches), entry


def test_specialisations_are_all_different_and_complete():
    every = list(catalogue.specialisations())
    assert len(set(every)) == len(every)
    tiled, expected = catalogue.TILED, 0
    for entry, (_, switches) in catalogue.KERNELS.items():
        dtypes = len(catalogue.dtypes_of(entry))
        if entry in tiled:
            choices = len(tiled[entry][1])
            with_options = len(catalogue.WITH_OPTIONS.get(entry, tiled[entry][1]))
            times = ("OPTIONS" in switches) + len(set(catalogue.BESIDE_OPTIONS) & set(switches))  # without and with
            expected += dtypes * (choices + with_options * times)
            expected += dtypes * len(catalogue.BIDIRECTIONAL.get(entry, ()))
            expected += dtypes * len(catalogue.BIDIRECTIONAL_OPTIONS.get(entry, ())) * times
            expected += dtypes * len(catalogue.LAYERS.get(entry, ()))
            expected -= len(layer_norm_layouts.TOO_TIGHT_IN_TF32.get(entry, ()))
        else:
            expected += dtypes * 2 ** len(switches)
    assert len(every) == expected
    assert set(catalogue.BIDIRECTIONAL) == {e for e, (_, s) in catalogue.KERNELS.items() if "BIDIRECTIONAL" in s}
    assert all(set(tiles) <= set(tiled[entry][1]) for entry, tiles in catalogue.BIDIRECTIONAL.items())
    assert catalogue.BIDIRECTIONAL_OPTIONS.keys() == catalogue.BIDIRECTIONAL.keys()
    for entry, tiles in catalogue.BIDIRECTIONAL_OPTIONS.items():
        assert set(tiles) <= set(catalogue.BIDIRECTIONAL[entry])
    assert len({(s.source, s.options) for s in every}) < len(every), "entries of one file share a translation unit"
    assert len({s.options for s in every}) == 1, "CuPy compiles an empty program for each set of options"


def test_kernels_for_arrays_of_16_bits_are_those_that_tell_storage_from_arithmetic():
    folder = sources.kernel_folder()
    for entry, (file, _) in catalogue.KERNELS.items():
        knows = '#include "storage.cuh"' in (folder / file).read_text(encoding="utf-8")
        half = {"float16", "bfloat16"} & set(catalogue.dtypes_of(entry))
        assert len(half) == (2 if knows else 0), entry
        alone = file == "convert.cu" or entry in catalogue.TILES_IN_16_BITS
        assert ("float32" in catalogue.dtypes_of(entry)) == (not alone), entry


def test_kernel_readme_has_one_row_per_kernel():
    page = (sources.kernel_folder() / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+\.cu)` \|(.*)\|$", page, flags=re.MULTILINE)
    assert [(entry, file) for entry, file, _ in rows] == [(e, file) for e, (file, _) in catalogue.KERNELS.items()]
    for entry, _, rest in rows:
        listed = {word for word in re.findall(r"[A-Z_]{2,}", rest.rsplit("|", 1)[1])}
        assert listed == set(catalogue.KERNELS[entry][1]), entry


def with_headers(file: str, headers: str) -> str:
    """A kernel file's text and that of the ``headers`` (a pattern) that it includes, or that those include."""
    files, texts = [file], []
    for name in files:
        texts.append((sources.kernel_folder() / name).read_text(encoding="utf-8"))
        included = re.findall(rf'#include "((?:{headers})\.cuh)"', texts[-1])
        files += [header for header in included if header not in files]
    return "".join(texts)


def test_tiles_are_those_that_the_file_reads():
    for entry, (names, choices) in catalogue.TILES.items():
        headers = r"handed_rows|row_fragments|contribut\w+|stacked_\w+|\w+_products?"
        text = with_headers(catalogue.KERNELS[entry][0], headers)
        code = re.sub(r"//.*", "", text)
        given = {name for name in re.findall(r"\b[A-Z]{5,}\b", code) if not re.search(rf"#define {name}\b", code)}
        assert given == set(names) | set(catalogue.KERNELS[entry][1]), entry
        assert len(set(choices)) == len(choices)


def test_tiles_of_wide_kernels_are_those_that_the_shared_header_reads():
    """Forward too: what a kernel defines itself is no tile."""
    for entry, (names, choices) in catalogue.WIDE_TILES.items():
        files = ("wide_weights.cuh", *(("contributions.cuh",) if "backward" in entry else ()), f"{entry}.cu")
        text = "".join((sources.kernel_folder() / file).read_text(encoding="utf-8") for file in files)
        code = re.sub(r"//.*", "", text)
        given = {name for name in re.findall(r"\b[A-Z]{4,}\b", code) if not re.search(rf"#define {name}\b", code)}
        assert given == set(names) | set(catalogue.KERNELS[entry][1]), entry
        assert len(set(choices)) == len(choices)


def test_tiles_of_16_bits_are_those_that_the_shared_header_reads():
    text = (sources.kernel_folder() / "handed_product.cuh").read_text(encoding="utf-8")
    code = re.sub(r"//.*", "", text)
    given = {name for name in re.findall(r"\b[A-Z_]{5,}\b", code) if not re.search(rf"#define {name}\b", code)}
    for names, choices in catalogue.HALF_TILES.values():
        assert given == set(names)
        assert len(set(choices)) == len(choices)


def test_tiles_of_clusters_and_of_blocks_of_16_bits_are_those_that_the_files_read():
    shared = (sources.kernel_folder() / "cluster_product.cuh").read_text(encoding="utf-8")
    for entry, (names, choices) in (catalogue.CLUSTER_HALF_TILES | catalogue.RESIDENT_TENSOR_TILES).items():
        text = (sources.kernel_folder() / catalogue.KERNELS[entry][0]).read_text(encoding="utf-8")
        code = re.sub(r"//.*", "", text + shared * (entry in catalogue.CLUSTER_HALF_TILES))
        defined_too = code + with_headers(catalogue.KERNELS[entry][0], "tensor_gradients")
        own = {*re.findall(r"(?:#define|template <int) (\w+)", defined_too), *catalogue.KERNELS[entry][1]}
        assert set(re.findall(r"\b[A-Z_]{5,}\b", code)) - own == set(names), entry
        assert len(set(choices)) == len(choices)
