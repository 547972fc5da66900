"""What every admin of the house does alike: writes go through services, and their refusals come back as form errors.

A subclass says which services: `add_row`, `change_row`, `remove_row`. What it does not say cannot be done. Foreign keys
offer what the other model's admin would show this person, columns can be filtered only where a filter is offered, and
the log of Django's admin is for operators. Whose rows somebody sees is `tenants.admin_scope`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Generic, TypeVar

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import quote
from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.admin import ModelAdmin, TabularInline

from core.errors import QuiverError

Row = TypeVar("Row", bound=models.Model)
REFUSALS = (QuiverError, ValidationError, IntegrityError)
_LOOKUPS = frozenset(
    {"exact", "in", "isnull", "isempty", "gte", "gt", "lte", "lt", "year", "month", "day", "id__exact", "id__isnull"}
)
_REFUSAL = "_quiver_refusal"  # on the request


def is_operator(request: HttpRequest) -> bool:
    """Whether this is the platform's operator."""
    return bool(request.user.is_active and getattr(request.user, "is_superuser", False))


def posted(request: HttpRequest) -> Any:
    """What a form is bound to: also a POST without any field is one."""
    return request.POST if request.method == "POST" else None


def report(form: forms.BaseForm, error: Exception, fields: dict[str, str]) -> None:
    """Puts a service's refusal where it belongs in a form; `fields` maps names of services to those of the form."""
    if isinstance(error, ValidationError):
        named = error.message_dict if hasattr(error, "error_dict") else {"": error.messages}
    elif isinstance(error, QuiverError):
        named = {error.param or "": [error.message]}
    else:
        named = {"": ["Somebody changed this at the same moment; look again and repeat what you did."]}
    for name, said in named.items():
        field = fields.get(name, name.removeprefix("secret."))
        form.add_error(field if field in form.fields else None, said)


class Decimals(forms.DecimalField):
    """Shows no zeros that say nothing; a column of nine places is full of them."""

    def prepare_value(self, value: Any) -> Any:
        return f"{value.normalize():f}" if isinstance(value, Decimal) else value


class Numbers(forms.CharField):
    """A list of whole numbers, written with commas between."""

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        try:
            return [int(part) for part in (super().to_python(value) or "").replace(",", " ").split()]
        except ValueError as error:
            raise forms.ValidationError("Whole numbers with commas between, such as 256, 512.") from error


class RowForm(forms.ModelForm):
    """A form whose last word the service has."""

    refusal: ClassVar[Exception | None] = None
    service_names: ClassVar[dict[str, str]] = {}

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        if self.refusal is not None:
            report(self, self.refusal, self.service_names)
        return data

    def _post_clean(self) -> None:
        # Constraints are left to the service, which says in words what a constraint can only name.
        self.instance.validate_constraints = lambda exclude=None: None
        super()._post_clean()  # type: ignore[misc]

    def changed(self, *names: str) -> dict[str, Any]:
        """Of these fields, those that the person touched, as they were understood."""
        return {name: self.cleaned_data[name] for name in names if name in self.changed_data}


@dataclass(frozen=True, slots=True)
class Dialog:
    """The words of a page that asks before it does something."""

    title: str
    text: str
    submit: str
    is_dangerous: bool = False


class HouseAdmin(ModelAdmin, Generic[Row]):
    """One admin of the house. Without more it shows rows to operators and changes nothing."""

    form = RowForm
    actions = None  # one row at a time: a service refuses one row, not forty
    list_per_page = 50
    list_max_show_all = 0
    list_select_related: tuple[str, ...] | bool = ()
    labels: ClassVar[dict[str, str]] = {}  # of form fields, where the column's name says too little
    list_filter_submit = True
    compressed_fields = True
    warn_unsaved_form = True
    empty_value_display = "–"
    formfield_overrides = {models.DecimalField: {"form_class": Decimals}}
    adds = changes = removes = False

    def add_row(self, request: HttpRequest, form: Any) -> Row:
        raise NotImplementedError

    def change_row(self, request: HttpRequest, row: Row, form: Any) -> None:
        raise NotImplementedError

    def remove_row(self, request: HttpRequest, row: Row) -> None:
        raise NotImplementedError

    # Who may do what: operators, unless a subclass says otherwise.

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_operator(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.adds and is_operator(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.changes and is_operator(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.removes and is_operator(request)

    # Reading.

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Row:
        row = super().get_object(request, object_id, from_field)
        if row is None:  # Django would redirect, which tells more than a 404
            raise Http404
        return row

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        found: tuple[Any, bool] = super().get_search_results(request, queryset, search_term.replace("\x00", ""))
        return found

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Only what a filter offers: Django would let any column be searched bit by bit."""
        assert request is not None
        offered = [each[0] if isinstance(each, tuple) else each for each in self.get_list_filter(request)]
        if lookup in {getattr(each, "parameter_name", None) for each in offered}:  # a filter of its own, no column
            return True
        names = [name for name in [*offered, self.date_hierarchy] if isinstance(name, str)]
        return any(
            lookup == name or (lookup.startswith(f"{name}__") and lookup.removeprefix(f"{name}__") in _LOOKUPS)
            for name in names
        )

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        other = self.admin_site.get_model_admin(db_field.remote_field.model)
        kwargs.setdefault("queryset", other.get_queryset(request))
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None:
            field.label = self.labels.get(db_field.name, field.label)
        if field is not None and hasattr(field.widget, "can_add_related"):
            for what in ("add", "change", "delete", "view"):  # rows of other kinds are looked after on their own pages
                setattr(field.widget, f"can_{what}_related", False)
        return field

    # Writing.

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        refusal = getattr(request, _REFUSAL, None)
        if refusal is not None:
            form = type(form.__name__, (form,), {"refusal": refusal})
        shown = kwargs.get("fields")
        if shown is not None:  # what the class declares and the page leaves out would be asked for all the same
            form.base_fields = {name: field for name, field in form.base_fields.items() if name in shown}
        return form

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        one = {"show_save_and_continue": False, "show_save_and_add_another": False}
        answer: HttpResponse = super().render_change_form(request, context | one, *args, **kwargs)
        return answer

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        try:
            answer: HttpResponse = super().changeform_view(request, object_id, form_url, extra_context)
        except REFUSALS as error:
            setattr(request, _REFUSAL, error)  # all was rolled back: the same again, to show the form with the reason
            answer = super().changeform_view(request, object_id, form_url, extra_context)
        return answer

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            self.change_row(request, obj, form)
        else:
            obj.__dict__.update(self.add_row(request, form).__dict__)  # Django goes on with the object of its own

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.remove_row(request, obj)

    def get_deleted_objects(
        self, objs: Iterable[Any], request: HttpRequest
    ) -> tuple[list[str], dict[str, int], Any, Any]:
        """The row alone: what goes with it, and whether it may go, the service decides."""
        found = [str(each) for each in objs]
        return found, {str(self.opts.verbose_name_plural): len(found)}, set(), []

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        try:
            answer: HttpResponse = super().delete_view(request, object_id, extra_context)
        except REFUSALS as error:
            self.message_user(request, reason(error), messages.ERROR)
            return redirect(self.url("change", object_id))
        return answer

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        if not is_operator(request):  # its rows carry no tenant
            raise Http404
        return super().history_view(request, object_id, extra_context)

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        return super().construct_change_message(request, form, [], add)  # inlines here only show

    # Pages of actions.

    def url(self, name: str, *arguments: object) -> str:
        """The address of one of this admin's pages."""
        route = f"{self.admin_site.name}:{self.opts.app_label}_{self.opts.model_name}_{name}"
        return reverse(route, args=[quote(str(each)) for each in arguments])

    def ask(
        self,
        request: HttpRequest,
        row: Row,
        dialog: Dialog,
        act: Callable[[dict[str, Any]], str | HttpResponse],
        form: forms.Form | None = None,
    ) -> HttpResponse:
        """Shows what is asked; on a POST does it. `act` returns what to say on the row's page, or a page of its own."""
        used = form if form is not None else forms.Form(posted(request))
        if request.method == "POST" and used.is_valid():
            try:
                with transaction.atomic():
                    said = act(used.cleaned_data)
            except REFUSALS as error:
                report(used, error, {})
            else:
                if isinstance(said, HttpResponse):
                    return said
                self.message_user(request, said, messages.SUCCESS)
                return redirect(self.url("change", row.pk))
        return self.page(
            request,
            "admin/dialog.html",
            row,
            {"title": dialog.title, "dialog": dialog, "form": used, "media": used.media},
        )

    def page(self, request: HttpRequest, template: str, row: Row, context: dict[str, Any]) -> TemplateResponse:
        """A page about a row inside the admin's frame."""
        frame = self.admin_site.each_context(request) | {"opts": self.opts, "original": row, "row": row}
        back = {"back": self.url("change", row.pk)}
        return TemplateResponse(request, template, frame | back | context)

    def page_of_list(self, request: HttpRequest, dialog: Dialog, form: forms.Form) -> TemplateResponse:
        """A page that asks for something that is about no single row."""
        frame = self.admin_site.each_context(request) | {"opts": self.opts, "back": self.url("changelist")}
        asked = {"title": dialog.title, "dialog": dialog, "form": form, "media": form.media}
        return TemplateResponse(request, "admin/dialog.html", frame | asked)

    def show_once(self, request: HttpRequest, row: Row, *, title: str, text: str, secret: str) -> HttpResponse:
        """The only page that ever holds this text; nothing of it is stored."""
        answer = self.page(request, "admin/shown_once.html", row, {"title": title, "text": text, "secret": secret})
        answer["Cache-Control"] = "private, no-store"
        answer["Referrer-Policy"] = "no-referrer"
        return answer


class ShownRows(TabularInline):
    """Rows that belong to a page and are only shown there."""

    extra = 0
    can_delete = False
    show_change_link = False
    hide_title = True

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return True  # who sees the page sees them; a page that should not have them leaves the inline out

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def reason(error: Exception) -> str:
    """What a person is told."""
    if isinstance(error, QuiverError):
        return error.message
    if isinstance(error, ValidationError):
        return " ".join(error.messages)
    return "Somebody changed this at the same moment; look again and repeat what you did."
