"""Few bundles, exported once: an export takes seconds."""

import logging
from collections.abc import Callable

import pytest
from exports import VARIANTS, Exported, export, make_model


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """The bundle of a variant by its name in VARIANTS, exported when first asked for."""
    made: dict[str, Exported] = {}

    def get(name: str) -> Exported:
        if name not in made:
            variant, features = VARIANTS[name]
            model = make_model(variant, features)
            # The exporter's trace has megabytes of debug lines, and pytest would format each of them.
            logging.disable(logging.DEBUG)
            made[name] = Exported(model, export(model, tmp_path_factory.mktemp("bundles") / name, features))
            logging.disable(logging.NOTSET)
        return made[name]

    return get
