"""The tables, for SQLite and PostgreSQL alike.

`num` columns give lists a total order and cursors; times in `*_at` are Unix seconds, whole ones
where the API shows them. Migrations create what stands here; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows only through a column of the exact type INTEGER.
RowNumber = BigInteger().with_variant(Integer, "sqlite")

projects = Table(
    "projects",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("slug", String, nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("archived_at", BigInteger),
    Column("rate_limits", Text),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("project_id", String, ForeignKey("projects.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("key_hash", String, nullable=False, unique=True),
    Column("prefix", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("origin", String, nullable=False, server_default="created"),
    Column("scopes", Text),
    Column("models", Text),
    Column("expires_at", BigInteger),
    Column("service_account_id", String),
    Index(None, "project_id", "created_at"),
)

admin_keys = Table(
    "admin_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("key_hash", String, nullable=False, unique=True),
    Column("prefix", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("num", RowNumber, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("at", BigInteger, nullable=False),
    Column("type", String, nullable=False),
    Column("actor_kind", String, nullable=False),
    Column("actor_id", String, nullable=False),
    Column("project_id", String),
    Column("details", JSON(none_as_null=True), nullable=False),
    Index(None, "at"),
    sqlite_autoincrement=True,
)

models = Table(
    "models",
    metadata,
    Column("id", String, primary_key=True),
    Column("project_id", String, ForeignKey("projects.id")),
    Column("kind", String, nullable=False),
    Column("parent", String),
    Column("base", String, nullable=False),
    Column("engine_model", String, nullable=False),
    Column("path", String, nullable=False),
    Column("adapter_uid", BigInteger, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("owned_by", String, nullable=False),
    Column("job_id", String),
    Column("deleted_at", BigInteger),
    Column("wanted_at", Float),
    Index(None, "project_id"),
)

# `owner` is the project whose alias it is, or empty for those of the configuration.
model_aliases = Table(
    "model_aliases",
    metadata,
    Column("owner", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("points_to", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

checkpoint_permissions = Table(
    "checkpoint_permissions",
    metadata,
    Column("num", RowNumber, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("model_id", String, ForeignKey("models.id"), nullable=False),
    Column("project_id", String, ForeignKey("projects.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("model_id", "project_id"),
    sqlite_autoincrement=True,
)

engines = Table(
    "engines",
    metadata,
    Column("id", String, primary_key=True),
    Column("model_id", String, nullable=False),
    Column("address", String, nullable=False),
    Column("token", String),
    Column("state", String, nullable=False),
    Column("supervisor_id", String, nullable=False),
    Column("pid", Integer),
    Column("heartbeat_at", Float, nullable=False),
    Index(None, "model_id"),
)

files = Table(
    "files",
    metadata,
    Column("num", RowNumber, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("project_id", String, ForeignKey("projects.id"), nullable=False),
    Column("filename", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("status", String, nullable=False),
    Column("status_details", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("blob", String, nullable=False),
    Column("deleted_at", BigInteger),
    Index(None, "project_id", "num"),
    sqlite_autoincrement=True,
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", String, primary_key=True),
    Column("project_id", String, ForeignKey("projects.id"), nullable=False),
    Column("filename", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("status", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("file_expires_s", BigInteger),
    Column("file_id", String),
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("id", String, primary_key=True),
    Column("upload_id", String, ForeignKey("uploads.id"), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index(None, "upload_id"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("num", RowNumber, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("project_id", String, ForeignKey("projects.id"), nullable=False),
    Column("plan", JSON(none_as_null=True), nullable=False),
    Column("metadata", JSON(none_as_null=True)),
    Column("status", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Column("estimated_finish", BigInteger),
    Column("fine_tuned_model", String),
    Column("hyperparameters", JSON(none_as_null=True), nullable=False),
    Column("trained_tokens", BigInteger),
    Column("result_files", JSON(none_as_null=True), nullable=False),
    Column("error", JSON(none_as_null=True)),
    Column("owner", String),
    Column("lease_until", Float),
    Column("trainer_deaths", Integer, nullable=False),
    Column("train_seq", BigInteger, nullable=False),
    Index(None, "project_id", "num"),
    Index(None, "status", "num"),
    sqlite_autoincrement=True,
)

job_metadata = Table(
    "job_metadata",
    metadata,
    Column("job_id", String, ForeignKey("jobs.id"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)

job_events = Table(
    "job_events",
    metadata,
    Column("num", RowNumber, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("job_id", String, ForeignKey("jobs.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("level", String, nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON(none_as_null=True)),
    Index(None, "job_id", "num"),
    sqlite_autoincrement=True,
)

job_checkpoints = Table(
    "job_checkpoints",
    metadata,
    Column("num", RowNumber, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("job_id", String, ForeignKey("jobs.id"), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("model_id", String, nullable=False),
    Column("metrics", JSON(none_as_null=True), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("job_id", "step"),
    sqlite_autoincrement=True,
)

webhook_events = Table(
    "webhook_events",
    metadata,
    Column("num", RowNumber, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("project_id", String, ForeignKey("projects.id"), nullable=False),
    Column("type", String, nullable=False),
    Column("object_id", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("spread_at", BigInteger),
    Index(None, "spread_at"),
    sqlite_autoincrement=True,
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("num", RowNumber, primary_key=True, autoincrement=True),
    Column("event_num", RowNumber, ForeignKey("webhook_events.num"), nullable=False),
    Column("url", String, nullable=False),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Float, nullable=False),
    Column("error", String),
    UniqueConstraint("event_num", "url"),
    Index(None, "url", "state", "next_at"),
    sqlite_autoincrement=True,
)

usage = Table(
    "usage",
    metadata,
    Column("project_id", String, primary_key=True),
    Column("key_id", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("minute", BigInteger, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("embedding_requests", BigInteger, nullable=False, server_default="0"),
    Column("embedding_tokens", BigInteger, nullable=False, server_default="0"),
    Column("batch_requests", BigInteger, nullable=False, server_default="0"),
    Column("batch_tokens", BigInteger, nullable=False, server_default="0"),
    Index(None, "minute"),
)

responses = Table(
    "responses",
    metadata,
    Column("id", String, primary_key=True),
    Column("project_id", String, ForeignKey("projects.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("previous_id", String),
    Column("model", String, nullable=False),
    Column("status", String, nullable=False),
    Column("body", Text, nullable=False),
    Column("input", Text, nullable=False),
    Column("depth", BigInteger, nullable=False),
    Column("context_bytes", BigInteger, nullable=False),
    Column("owner", String),
    Column("lease_until", Float),
    Index(None, "expires_at"),
    Index(None, "lease_until"),
)

stored_completions = Table(
    "stored_completions",
    metadata,
    Column("num", RowNumber, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("project_id", String, ForeignKey("projects.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("model", String, nullable=False),
    Column("metadata", JSON(none_as_null=True)),
    Column("body", Text, nullable=False),
    Column("messages", Text, nullable=False),
    Index(None, "project_id", "num"),
    Index(None, "project_id", "model", "num"),
    Index(None, "expires_at"),
    sqlite_autoincrement=True,
)

stored_completion_metadata = Table(
    "stored_completion_metadata",
    metadata,
    Column("completion_id", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("num", RowNumber, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("project_id", String, ForeignKey("projects.id"), nullable=False),
    Column("key_id", String, nullable=False),
    Column("endpoint", String, nullable=False),
    Column("model", String),
    Column("input_file_id", String, nullable=False),
    Column("completion_window", String, nullable=False),
    Column("status", String, nullable=False),
    Column("errors", JSON(none_as_null=True)),
    Column("output_file_id", String),
    Column("error_file_id", String),
    Column("output_expires_s", BigInteger),
    Column("metadata", JSON(none_as_null=True)),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("in_progress_at", BigInteger),
    Column("finalizing_at", BigInteger),
    Column("completed_at", BigInteger),
    Column("failed_at", BigInteger),
    Column("expired_at", BigInteger),
    Column("cancelling_at", BigInteger),
    Column("cancelled_at", BigInteger),
    Column("total", BigInteger, nullable=False),
    Column("completed", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("owner", String),
    Column("lease_until", Float),
    Index(None, "project_id", "num"),
    Index(None, "status", "num"),
    sqlite_autoincrement=True,
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("project_id", String, primary_key=True),
    Column("route", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("body_hash", String, nullable=False),
    Column("response", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

counters = Table(
    "counters",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
