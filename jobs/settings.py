"""`uic.yaml`: the settings of the whole product, typed and validated.

What counts, from weakest to strongest: the defaults here, the file, environment variables (`UIC__TRAIN__EPOCHS=3`), options on
the command line. A key that is not known is refused. Secrets come from the environment alone. `flink` holds Flink's own keys.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from uic.clock import Days
from uic.errors import BadInput
from uic.memory import Numbers
from uic.models import AnyVariant, model_variant

DEFAULT_FILE = Path("uic.yaml")
_ENVIRONMENT = "UIC__"
SECRETS = (("kafka", "password"), ("store", "password"), ("serve", "token"), ("serve", "admin_token"))


def _from_text(section: Any) -> Any:  # whatever the file or the environment has in this place
    """A section whose fields are not typed here: what came as text, as the environment's does, is read as JSON if it is any."""
    if not isinstance(section, dict):
        return section
    return {key: _json_or_text(value) if isinstance(value, str) else value for key, value in section.items()}


def _json_or_text(text: str) -> Any:  # any JSON value
    try:
        return json.loads(text)
    except ValueError:
        return text


def _known_zone(zone: str) -> str:
    try:
        return Days(zone).zone
    except BadInput as error:
        raise ValueError(str(error)) from error


_Fields = Annotated[dict[str, Any], BeforeValidator(_from_text)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Section):
    """Which model: its name, a preset, the embedding width E (all that is recurrent is 2E wide), and switches changed in it."""

    name: Literal["mimn", "mlp", "din", "gru4rec", "arnn", "rum", "dien", "sdim", "delta"] = "mimn"
    preset: Literal["default", "official", "paper"] = "default"
    embedding: int = Field(16, ge=1, le=1024)
    slots: int = Field(8, ge=1)
    top_channels: int = Field(1, ge=1)
    switches: _Fields = Field(default_factory=dict, description="fields of its variant (uic/variant.py, uic/models.py)")

    def variant(self) -> AnyVariant:
        """The variant these settings name."""
        switches = {"top_channels": self.top_channels, **self.switches} if self.name == "mimn" else self.switches
        return model_variant(self.name, self.preset, embedding=self.embedding, slots=self.slots, switches=switches)


class StreamSettings(_Section):
    """The streaming job."""

    job_dir: Path = Path("job")
    plan: Literal["auto", "batched", "per-event"] = Field("auto", description="auto: batched where its jar is built")
    jars: Path = Field(Path("infra/jars/job"), description="the jars of the batched plan and of Kafka; `make jars` makes them")
    backend: Literal["hashmap", "rocksdb"] = "hashmap"
    parallelism: int = Field(1, ge=1, le=128)
    checkpoint_interval_s: float = Field(3.0, gt=0)
    batch: int = Field(256, ge=1, le=4096, description="batched plan: events of one call into Python, at most")
    batch_wait_ms: int = Field(5, ge=1, le=1000, description="batched plan: how long an event waits for others, at most")
    direct: Path | None = Field(None, description="batched plan on a cluster: a redis:// URL that it writes to as well")
    idle_after_s: int | None = Field(None, ge=1, description="users idle for so long in log time leave state and store")
    metrics_host: str = Field("127.0.0.1", description="address on which a worker serves its metrics")
    metrics_port: int | None = Field(None, ge=0, le=65535, description="Prometheus port of each worker; 0: any free one")
    lateness_s: int = Field(86_400, ge=0, description="how much older than its user's last event an event may be")
    max_ahead_s: int = Field(86_400, ge=0, description="how far ahead of the clock an event's time may be")
    not_before: AwareDatetime | None = Field(None, description="--until of the warm-up: events of before are late")


class DaysSettings(_Section):
    """Days, as daily checkpoints and daily copies know them."""

    zone: Annotated[str, AfterValidator(_known_zone)] = Field("UTC", description="time zone, such as Asia/Shanghai")
    kept: int = Field(7, ge=1, le=366, description="days that can be gone back to")
    lead_s: int = Field(600, ge=0, le=43_200, description="how long before a day begins its daily checkpoint is taken")


class StoreSettings(_Section):
    """The online store. `password` comes from the environment alone (UIC__STORE__PASSWORD), in Flink's workers too."""

    path: Path = Field(Path("store"), description="a folder, or a URL such as redis://host:6379/0 (uic/store/place.py)")
    numbers: Numbers = Field("float32", description="what memories are kept in: float32, float16 or int8 (uic/small.py)")
    password: SecretStr | None = Field(None, description="of a Redis that asks for one")


class KafkaSettings(_Section):
    """Kafka: where it is, how to get in, and the topics. `password` comes from the environment alone (UIC__KAFKA__PASSWORD)."""

    bootstrap: str = Field("localhost:9092", description="host:port, several with commas")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    username: str | None = None
    password: SecretStr | None = None
    ca_file: Path | None = Field(None, description="PEM file of the certificates to trust")
    certificate_file: Path | None = Field(None, description="PEM file of the client's own certificate, where TLS is mutual")
    key_file: Path | None = Field(None, description="PEM file of its key, PKCS 8")
    events: str = Field("events", description="topic of behaviour events, key = user_id, LogAppendTime")
    snapshots: str = Field("snapshots", description="topic of published memories, compacted")
    late: str = Field("late-events", description="topic of events that came too late")
    dead: str = Field("dead-letters", description="topic of events that cannot be applied")
    control: str = Field("control", description="topic of control messages to running jobs; one partition")
    partitions: int = Field(4, ge=1, le=128, description="partitions of each topic but control")
    replication: int = Field(1, ge=1, description="replicas of each topic, where we make it")
    retention_h: int = Field(
        216, ge=1, description="how long the events topic keeps events; a rollback needs days.kept + 1 days"
    )
    group: str = Field("uic", description="consumer group: committed offsets are kept under it")
    start: str = Field("earliest", description="earliest, latest, committed, or a time such as 2017-11-26T00:00:00+08:00")


class RegistrySettings(_Section):
    """Where bundles are kept for jobs to take (`uic bundle`)."""

    url: str = Field("registry", description="a folder that the workers see, or an object store such as s3://bucket/bundles")
    max_skew_h: float = Field(24.0, gt=0, description="how far the trainings of UIC's and RTP's bundle may end apart")
    promote_timeout_s: float = Field(300.0, gt=0, description="how long all subtasks may take to make a bundle ready")


class ClusterSettings(_Section):
    """The Flink cluster that `uic job submit` speaks to."""

    url: str = Field("http://localhost:8081", description="REST address of the JobManager")


class DailySettings(_Section):
    """The catalogue of daily checkpoints (`uic checkpoint create`, `schedule`); which days there are is in `days`."""

    catalogue: Path | None = Field(None, description="its folder, on the disk that the workers share; default: <job_dir>-daily")
    savepoint_timeout_s: float = Field(3600.0, gt=0, description="how long Flink may take for one")
    clock_margin_s: float = Field(60.0, ge=0, description="how far this machine's and the brokers' clocks may be apart")
    metrics_host: str = Field("127.0.0.1", description="address on which `uic checkpoint schedule` serves its metrics")
    metrics_port: int | None = Field(None, ge=0, le=65535, description="and its Prometheus port; 0: any free one")


class ServeSettings(_Section):
    """`uic serve`. Tokens come from the environment alone (UIC__SERVE__TOKEN, UIC__SERVE__ADMIN_TOKEN)."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0: any free one")
    token: SecretStr | None = Field(None, min_length=1, description="bearer token that scores want")
    admin_token: SecretStr | None = Field(
        None, min_length=1, description="bearer token of POST /v1/admin/bundle; none: nobody may"
    )
    certificate: Path | None = Field(None, description="PEM file of the certificate chain: TLS")
    key: Path | None = Field(None, description="PEM file of its key")
    body_bytes: int = Field(1 << 20, ge=1024, description="largest body of a request")
    users: int = Field(64, ge=1, le=1024, description="users of one request")
    candidates: int = Field(5000, ge=1, le=100_000, description="candidates of one request, over all users")
    time_s: float = Field(1.0, gt=0, le=60, description="how long a request may take; then 504")
    threads: int | None = Field(None, ge=1, le=256, description="requests scored at once; default: one a core")
    waiting: int = Field(32, ge=0, le=10_000, description="requests that may wait for them; more are turned away with 503")
    refresh_s: float = Field(0.1, gt=0, le=60, description="how often to see what the store's writers have written")
    watch_s: float | None = Field(None, gt=0, description="how often to look whether the bundle's path points elsewhere")
    drain_s: float = Field(5.0, ge=0, le=600, description="after SIGTERM: how long to answer on while callers go elsewhere")

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("TLS wants certificate and key, got one of them")
        return self


class Settings(BaseSettings):
    """The whole of uic.yaml."""

    model_config = SettingsConfigDict(env_prefix=_ENVIRONMENT, env_nested_delimiter="__", extra="forbid", frozen=True)

    model: ModelSettings = ModelSettings()
    train: _Fields = Field(default_factory=dict, description="fields of model/training/config.py, such as `epochs: 5`")
    stream: StreamSettings = StreamSettings()
    days: DaysSettings = DaysSettings()
    store: StoreSettings = StoreSettings()
    kafka: KafkaSettings = KafkaSettings()
    cluster: ClusterSettings = ClusterSettings()
    daily: DailySettings = DailySettings()
    registry: RegistrySettings = RegistrySettings()
    serve: ServeSettings = ServeSettings()
    flink: dict[str, str] = Field(default_factory=dict, description="Flink's own keys, passed through")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The file arrives as arguments; the environment is stronger.
        return env_settings, init_settings


def load_settings(path: Path | None) -> Settings:
    """Read uic.yaml (or the file given) and the environment; raises BadInput with every key that is wrong."""
    if path is None and not DEFAULT_FILE.exists():
        content: Any = {}
    else:
        path = path or DEFAULT_FILE
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise BadInput(f"{path}: the settings cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise BadInput(f"{path}: expected sections such as `train:`, got {type(content).__name__}")
    flink = content.get("flink")
    if isinstance(flink, dict):
        content["flink"] = {str(key): _flink_text(key, value) for key, value in flink.items()}
    for section, secret in SECRETS:
        found = content.get(section)
        if isinstance(found, dict) and found.get(secret) is not None:
            variable = f"{_ENVIRONMENT}{section.upper()}__{secret.upper()}"
            raise BadInput(f"{path}: {section}.{secret}: a secret does not belong in a file; set {variable} in the environment")
    _check_sections(os.environ)
    try:
        return Settings(**content)
    except SettingsError as error:
        raise BadInput(f"environment: {error}: {error.__cause__}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']} (got {one['input']!r})" for one in error.errors())
        raise BadInput(f"{path or 'environment'}: {wrong}") from None


def _flink_text(key: object, value: object) -> str:
    if value is None or isinstance(value, dict | list):
        raise BadInput(f"flink.{key}: expected a whole key of Flink's, such as rest.port, and one plain value; got {value!r}")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_sections(environment: Mapping[str, str]) -> None:
    """Raise BadInput for a variable of ours that names no section: pydantic passes over it, and it would count for nothing."""
    for name in environment:
        section = name.upper().removeprefix(_ENVIRONMENT).partition("__")[0].lower()
        if name.upper().startswith(_ENVIRONMENT) and section not in Settings.model_fields:
            raise BadInput(f"environment: {name}: no section {section!r}; known are {', '.join(Settings.model_fields)}")
