"""What a model is on disk: manifest, hashes, the catalog of pairs, fetching."""

from edgespec.bundle.bundle import Bundle
from edgespec.bundle.foreign import ForeignBundle
from edgespec.bundle.manifest import Checks, FileRecord, HeadRecord, Manifest, Quality, Source, TableRecord
from edgespec.bundle.store import Store, default_store

__all__ = [
    "Bundle",
    "Checks",
    "FileRecord",
    "ForeignBundle",
    "HeadRecord",
    "Manifest",
    "Quality",
    "Source",
    "Store",
    "TableRecord",
    "default_store",
]
