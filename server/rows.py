"""Route parameter: the store."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from server.store import Store


def _store_of(request: Request) -> Store:
    store: Store = request.app.services.store
    return store


Rows = Annotated[Store, Depends(_store_of)]
