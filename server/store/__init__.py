"""Everything Tuneyard remembers, and the only place with SQL.

`open_store` gives a `Store`; its parts are named after what they keep (`store.keys`,
`store.models`, `store.jobs`, ...). Methods take and give plain values and the frozen records of
`server.store.records`; no row, session or connection leaves this package.
"""

from server.store.faults import StoreUnusableError
from server.store.passing_faults import StoreUnavailableError
from server.store.store import Store, open_store, told_to_operator

__all__ = ["Store", "StoreUnavailableError", "StoreUnusableError", "open_store", "told_to_operator"]
