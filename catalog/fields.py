"""The catalogue's rows as `/api/v1` shows and takes them."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from catalog.connection_tests import ConnectionTest
from catalog.models import (
    Capability,
    EmbeddingModel,
    ModelCheck,
    ModelEvent,
    Price,
    Provider,
    ProviderCredential,
    State,
    name_rule,
    slug_rule,
)
from catalog.rest import StrictFields, StrictRows
from catalog.selectors import price_now
from core.clock import utc_now


class Money(serializers.DecimalField):
    """USD as a decimal string, without zeros at its end."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"max_digits": 20, "decimal_places": 9, "normalize_output": True, **options})


class CurrentPrice(Money):
    """What a row costs now. Taken when the row is added; afterwards prices are posted, never changed."""

    def get_attribute(self, instance: EmbeddingModel) -> Any:
        return price_now(instance, utc_now())


class ModelFields(StrictRows):
    also_known_as = {"model_id": "model_identifier"}

    provider = serializers.CharField(source="provider.slug", help_text="The slug of the provider.")
    model_name = serializers.CharField(
        source="name", max_length=200, validators=[name_rule], help_text="What callers write in `model`."
    )
    model_identifier = serializers.CharField(
        source="identifier",
        max_length=200,
        validators=[name_rule],
        help_text="The vendor's id; `model_id` is taken as well.",
    )
    space = serializers.CharField(
        source="space.slug",
        required=False,
        max_length=200,
        validators=[name_rule],
        help_text="Rows of one space hold vectors that may be compared. Without one, the row gets its own.",
    )
    allowed_dimensions = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=65_536), required=False, max_length=1000
    )
    capabilities = serializers.ListField(child=serializers.ChoiceField(Capability.choices), required=False)
    cost_per_million_tokens = CurrentPrice(
        required=False, allow_null=True, min_value=0, help_text="USD; null: unpriced."
    )
    successor = serializers.UUIDField(source="successor_id", read_only=True, allow_null=True)
    activate = serializers.BooleanField(
        write_only=True, required=False, help_text="Embed the probe texts and, when all pass, make the model available."
    )

    class Meta:
        model = EmbeddingModel
        fields = (
            "id",
            "provider",
            "model_name",
            "model_identifier",
            "space",
            "dimensions",
            "allowed_dimensions",
            "max_tokens",
            "tokenizer",
            "model_type",
            "model_version",
            "capabilities",
            "quality_score",
            "minimum_tier",
            "cost_per_million_tokens",
            "state",
            "state_reason",
            "unavailable_cause",
            "validated_at",
            "cuts",
            "deprecated_at",
            "sunset_at",
            "successor",
            "created_at",
            "updated_at",
            "activate",
        )
        read_only_fields = (
            "id",
            "state",
            "state_reason",
            "unavailable_cause",
            "validated_at",
            "cuts",
            "deprecated_at",
            "sunset_at",
            "created_at",
            "updated_at",
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What was sent, in the words of `catalog.services`."""
        sent = dict(self.validated_data)
        for name in ("provider", "space"):
            if name in sent:
                sent[name] = sent[name]["slug"]
        return sent


class ChangedModel(ModelFields):
    """A row that is there: it stays with its provider, and prices are posted to it."""

    provider = serializers.CharField(source="provider.slug", read_only=True)
    cost_per_million_tokens = CurrentPrice(
        read_only=True, allow_null=True, help_text="Changed by a POST to the model's prices."
    )


class Pages(serializers.Serializer[Any]):
    page = serializers.IntegerField()
    limit = serializers.IntegerField()
    total = serializers.IntegerField()
    pages = serializers.IntegerField()


class CatalogPage(serializers.Serializer[Any]):
    models = ModelFields(many=True)
    pagination = Pages()


class Move(StrictFields):
    to = serializers.ChoiceField(State.choices)
    reason = serializers.CharField(max_length=200, help_text="Kept with the model; tenants' agents read it.")
    sunset_at = serializers.DateTimeField(required=False, allow_null=True)
    successor = serializers.UUIDField(required=False, allow_null=True, help_text="The id of another catalogue row.")
    force = serializers.BooleanField(
        required=False,
        help_text="Remove a model before the sunset that tenants were told, or although they sent it texts within the "
        "last day.",
    )


class SunsetFields(StrictFields):
    sunset_at = serializers.DateTimeField(allow_null=True, help_text="When it ends; null: nobody knows yet.")
    successor = serializers.UUIDField(
        required=False, allow_null=True, help_text="The id of another catalogue row; left out, it stays."
    )
    reason = serializers.CharField(max_length=200, required=False, allow_blank=True)


class EventFields(StrictRows):
    """What happened to a model."""

    class Meta:
        model = ModelEvent
        fields = ("id", "kind", "was", "now", "cause", "actor", "reason", "at")
        read_only_fields = fields


class FailedProbeFields(serializers.Serializer[Any]):
    probe = serializers.CharField()
    expected = serializers.CharField()
    got = serializers.CharField()
    field = serializers.CharField(default="", help_text="Of the model, where one is wrong; else empty.")


class CheckFields(StrictRows):
    """What the probes found."""

    failed = FailedProbeFields(many=True, read_only=True)
    cost_usd = Money(read_only=True, allow_null=True, help_text="The platform's; null: unpriced.")
    state = serializers.CharField(source="model.state", read_only=True, help_text="Of the model, now.")

    class Meta:
        model = ModelCheck
        fields = ("id", "kind", "passed", "failed", "probes", "tokens", "cost_usd", "actor", "at", "state")
        read_only_fields = fields


class PriceFields(StrictRows):
    cost_per_million_tokens = Money(min_value=0, help_text="USD per million tokens; 0 is free.")
    effective_from = serializers.DateTimeField(
        required=False, help_text="Now, if not given; in the past only with `correction`."
    )
    source = serializers.CharField(  # type: ignore[assignment]  # DRF's own attribute of this name is the declaring field's
        max_length=100, help_text="Where the figure comes from."
    )
    confirm = serializers.BooleanField(
        write_only=True, required=False, help_text="Needed for more than $10 per million."
    )
    correction = serializers.BooleanField(
        write_only=True,
        required=False,
        help_text="For a moment in the past, with a `reason`: what was charged since is adjusted by rows of their own.",
    )

    class Meta:
        model = Price
        fields = (
            "id",
            "cost_per_million_tokens",
            "effective_from",
            "source",
            "reason",
            "confirm",
            "correction",
            "created_at",
        )
        read_only_fields = ("id", "created_at")


class PriceGlimpse(serializers.ModelSerializer[Price]):
    """What tenants see of a price."""

    cost_per_million_tokens = Money()

    class Meta:
        model = Price
        fields = ("id", "cost_per_million_tokens", "effective_from", "created_at")


class SecretFields(StrictFields):
    """What the vendor knows us by. Which fields belong together depends on the kind of the provider."""

    api_key = serializers.CharField(required=False, max_length=4096, trim_whitespace=False)
    aws_access_key_id = serializers.CharField(required=False, max_length=4096, trim_whitespace=False)
    aws_secret_access_key = serializers.CharField(required=False, max_length=4096, trim_whitespace=False)
    service_account = serializers.CharField(required=False, max_length=16_384, trim_whitespace=False)


class CredentialFields(StrictRows):
    class Meta:
        model = ProviderCredential
        fields = ("id", "label", "hint", "is_enabled", "created_at")
        read_only_fields = fields


class NewCredential(StrictFields):
    secret = SecretFields(write_only=True)
    label = serializers.CharField(max_length=100, required=False, allow_blank=True)  # type: ignore[assignment]


class ProviderFields(StrictRows):
    slug = serializers.CharField(read_only=True)
    kind = serializers.CharField(read_only=True)
    base_url = serializers.CharField(max_length=500, required=False, allow_blank=True)
    secret = SecretFields(write_only=True, required=False, help_text="Takes the place of all credentials.")
    credentials = CredentialFields(many=True, read_only=True)

    class Meta:
        model = Provider
        fields = (
            "slug",
            "kind",
            "base_url",
            "region",
            "project",
            "api_version",
            "secret",
            "credentials",
            "max_items",
            "max_tokens_per_call",
            "max_concurrency",
            "batch_window_ms",
            "mixes_tenants",
            "rpm",
            "tpm",
            "timeout_s",
            "is_enabled",
            "discovery",
            "created_at",
            "updated_at",
        )
        read_only_fields = ("created_at", "updated_at")


class NewProvider(ProviderFields):
    slug = serializers.CharField(max_length=63, validators=[slug_rule])
    kind = serializers.ChoiceField(Provider._meta.get_field("kind").choices or [])  # type: ignore[assignment]
    secret = SecretFields(write_only=True, required=False)


class FindingFields(serializers.Serializer[Any]):
    credential = serializers.CharField(help_text="Its label and last four letters.")
    is_ok = serializers.BooleanField()
    detail = serializers.CharField()
    names = serializers.ListField(child=serializers.CharField(), help_text="Models that the provider lists, the first.")


class TestFields(serializers.Serializer[ConnectionTest]):
    id = serializers.UUIDField()
    state = serializers.ChoiceField(("waiting", "running", "done"), help_text="`waiting`: for a worker.")
    asked_at = serializers.DateTimeField()
    findings = FindingFields(many=True, help_text="One for each credential, as they come; complete when it is done.")


class ProviderGlimpse(serializers.ModelSerializer[Provider]):
    """What tenants see of a provider: no address, no credentials."""

    class Meta:
        model = Provider
        fields = ("slug", "kind", "region", "is_enabled")
