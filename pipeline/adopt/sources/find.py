"""What kind of source a place is: found by its first bytes, or by what a folder contains."""

from ....storage.errors import SourceError
from ....storage.places.place import Place
from .anndata import AnnData, Nodes, is_anndata
from .found import SPLITS, TABLES, Source

ZARR = {"zarr.json", ".zarray", ".zgroup", ".zmetadata"}
HDF5 = b"\x89HDF\r\n\x1a\n"
VERSIONS_OF_LANCE = "_versions"
KINDS = "Zarr, HDF5, NPY, NPZ, Arrow, Parquet and Lance"


def open_source(place: Place) -> Source:
    """The arrays or columns of a place. Raises SourceError for what is none of these formats."""
    if place.is_file():
        return _open_file(place)
    names = place.names()
    if not names:
        raise SourceError(f"{place} does not exist or is empty; give a file or a folder of {KINDS}")
    if not ZARR.isdisjoint(names):
        from .zarr_store import ZarrStore

        return _with_observations(ZarrStore(place))
    if VERSIONS_OF_LANCE in names:
        from .lance_table import LanceTable

        return LanceTable(place)
    if any(entry.name.endswith(TABLES) for entry in place.walk()) or SPLITS in names:
        from .tables import TableFiles

        return TableFiles(place)
    raise SourceError(f"{place} contains no arrays; give a file or a folder of {KINDS}")


def _with_observations(source: Nodes) -> Source:
    return AnnData(source) if is_anndata(source) else source


def _open_file(place: Place) -> Source:
    start = place.read_range(0, 16)
    if start.startswith((b"\x93NUMPY", b"PK")):
        from .numpy_files import NumpyFile

        return NumpyFile(place)
    if start.startswith(HDF5):
        from .hdf5 import Hdf5File

        return _with_observations(Hdf5File(place))
    if start.startswith((b"PAR1", b"ARROW1")) or place.suffix in TABLES:
        from .tables import TableFiles

        return TableFiles(place)
    if start.startswith(b"CDF"):
        raise SourceError(
            f"{place} is a NetCDF file of an old format, whose rows may be scattered; write it as NetCDF4 or Zarr with "
            "xarray, e.g. xarray.open_dataset(…).to_zarr(…)"
        )
    raise SourceError(f"{place} is not in a format whose rows can stay where they are; give {KINDS}")
