"""The schema that is published is the one that is served: drawn requests, good and bad, are answered as it says."""

from pathlib import Path

import pytest
import schemathesis
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import BaseSchema, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from serving.app import Tokens, make_app
from serving.service import Limits, Service
from uic.bundle import Bundle
from uic.store.contract import InMemoryStore, StoreIdentity

# That good data is accepted is not among them: no day is kept here, and a user's name is measured in bytes.
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]


class Store(InMemoryStore):
    def __init__(self, identity: StoreIdentity) -> None:
        super().__init__()
        self.identity = identity

    def refresh(self) -> None:
        pass


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> BaseSchema:
    bundle = Bundle.open(tiny.make_bundle(tmp_path_factory.mktemp("schema") / "bundle"))
    service = Service(bundle.path, Store(bundle.identity), Path("store"), Limits(users=2, candidates=8))
    service.load()
    return schemathesis.openapi.from_asgi("/openapi.json", make_app(service, Tokens(admin="admin"), lambda facts: None))


@pytest.mark.parametrize("mode", GenerationMode)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data())
def test_requests_for_scores_are_answered_as_the_schema_says(
    schema: BaseSchema, mode: GenerationMode, data: st.DataObject
) -> None:
    case = data.draw(schema["/v1/score"]["POST"].as_strategy(generation_mode=mode))
    case.call_and_validate(checks=CHECKS)


def test_all_else_is_answered_as_the_schema_says(schema: BaseSchema) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        schema[path]["GET"].Case().call_and_validate(checks=CHECKS)
    schema["/v1/admin/bundle"]["POST"].Case().call_and_validate(checks=CHECKS)
