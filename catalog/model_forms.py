"""What is asked in the admin about models and prices: fields, help, and what is offered. Rules are the services'."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminSplitDateTimeWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from catalog import lifecycle
from catalog.admin_base import Decimals, Numbers, RowForm
from catalog.models import Capability, EmbeddingModel, State, name_rule

_ABILITIES = (
    (Capability.DIMENSIONS.value, "The provider takes a width"),
    (Capability.MATRYOSHKA.value, "Vectors may be cut shorter"),
)


class ModelForm(RowForm):
    service_names = {"model_name": "name", "model_identifier": "identifier", "space": "space_name"}
    space_name = forms.CharField(
        label="Vector space",
        required=False,
        max_length=200,
        validators=[name_rule],
        widget=UnfoldAdminTextInputWidget,
        help_text="Models that name the same space are taken to give comparable vectors. Empty: one of its own.",
    )
    allowed_dimensions = Numbers(
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Other widths that may be asked for, with commas between; tell below how they come about.",
    )
    capabilities = forms.MultipleChoiceField(
        required=False, choices=_ABILITIES, widget=UnfoldAdminCheckboxSelectMultipleWidget
    )
    cost_per_million_tokens = Decimals(
        label="Price in USD per million tokens",
        required=False,
        min_value=0,
        max_digits=20,
        decimal_places=9,
        widget=UnfoldAdminDecimalFieldWidget,
        help_text="From now on. 0 is free; empty is unpriced, and then only tenants that opted in may use it.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk and self.instance.space_id:
            self.initial["space_name"] = self.instance.space.slug


class MoveForm(forms.Form):
    to = forms.ChoiceField(label="New state", choices=State.choices, widget=UnfoldAdminSelectWidget)
    reason = forms.CharField(max_length=200, widget=UnfoldAdminTextInputWidget, help_text="Kept with the model.")
    sunset_at = forms.SplitDateTimeField(
        label="Ends at (UTC)",
        required=False,
        widget=UnfoldAdminSplitDateTimeWidget,
        help_text="For a move to deprecated: until then it goes on answering.",
    )
    successor = forms.ModelChoiceField(
        queryset=EmbeddingModel.objects.none(),
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text="For a move to deprecated: the model to change to.",
    )
    force = forms.BooleanField(
        label="Remove it all the same",
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        help_text="For a move to removed: before the end that tenants were told, or although they sent it texts within "
        "the last day. Their requests that name it fail from then on.",
    )

    def __init__(self, *args: Any, row: EmbeddingModel, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        legal = lifecycle.legal_moves(row.state)
        # Offered is what is legal; what was legal a moment ago is for the service to refuse, which says why.
        self.fields["to"].widget.choices = [(each, State(each).label) for each in legal]
        others = EmbeddingModel.objects.filter(state=State.AVAILABLE).exclude(pk=row.pk).select_related("provider")
        self.fields["successor"].queryset = others  # type: ignore[attr-defined]
        if State.DEPRECATED not in legal:
            del self.fields["sunset_at"], self.fields["successor"]
        if State.REMOVED not in legal:
            del self.fields["force"]


class SunsetForm(forms.Form):
    sunset_at = forms.SplitDateTimeField(label="Ends at (UTC)", widget=UnfoldAdminSplitDateTimeWidget)
    successor = forms.ModelChoiceField(
        queryset=EmbeddingModel.objects.none(),
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text="Empty: it stays as it is.",
    )
    reason = forms.CharField(max_length=200, widget=UnfoldAdminTextInputWidget, help_text="Kept with the model.")

    def __init__(self, *args: Any, row: EmbeddingModel, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        others = EmbeddingModel.objects.filter(state=State.AVAILABLE).exclude(pk=row.pk).select_related("provider")
        self.fields["successor"].queryset = others  # type: ignore[attr-defined]


class PriceForm(forms.Form):
    cost_per_million_tokens = Decimals(
        label="USD per million tokens",
        min_value=0,
        max_digits=20,
        decimal_places=9,
        widget=UnfoldAdminDecimalFieldWidget,
        help_text="0 is free.",
    )
    effective_from = forms.SplitDateTimeField(
        label="From (UTC)", required=False, widget=UnfoldAdminSplitDateTimeWidget, help_text="Empty: from now on."
    )
    source = forms.CharField(
        max_length=100, widget=UnfoldAdminTextInputWidget, help_text="Where the figure comes from."
    )
    reason = forms.CharField(
        required=False, max_length=200, widget=UnfoldAdminTextInputWidget, help_text="Needed for a correction."
    )
    correction = forms.BooleanField(
        label="Correct the past",
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        help_text="For a moment in the past: tenants get or pay the difference for what was charged since.",
    )
    confirm = forms.BooleanField(
        label="More than $10 per million is meant", required=False, widget=UnfoldBooleanSwitchWidget
    )
