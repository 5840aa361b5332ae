"""The real MovieLens 100K, fetched once into the user's own cache and never into the project."""

import os

import pytest

from model.data import ml100k_source
from model.data.ml100k import MovieLens


@pytest.fixture(scope="session")
def movie_lens() -> MovieLens:
    return ml100k_source.load(None, ml100k_source.cache_directory(os.environ))[0]
