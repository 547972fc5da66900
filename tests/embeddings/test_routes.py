"""A route's name, and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from embeddings.breaker import Force, force_on
from embeddings.routes import Route, parts, pattern_of, route_key
from tests.embeddings.building import endpoint

WORDS = st.text(st.sampled_from("ab|%7C25/:*"), max_size=8)


def test_it_names_provider_credential_model_and_region():
    assert route_key(endpoint(region="us-east-1"), "BAAI/bge-m3") == "openai|c1|BAAI/bge-m3|us-east-1"


@given(WORDS, WORDS, WORDS, WORDS)
def test_every_name_leads_back_to_its_parts(slug, credential, identifier, region):
    key = route_key(endpoint(slug, credential, region=region), identifier)
    assert key.count("|") == 3
    assert parts(key) == Route(slug, credential, identifier, region)


@given(st.text("ab*?[]%|"), st.text("ab*?[]%|"), st.text("ab*?[]%|"))
def test_the_pattern_of_a_model_fits_its_routes_and_no_other_models(slug, model, other):
    name = route_key(endpoint(slug, "any", region="where"), model)
    assert force_on(name, {pattern_of(slug, model): Force.OPEN}) is Force.OPEN
    assert force_on(name, {pattern_of(slug, None): Force.OPEN}) is Force.OPEN
    assert (force_on(name, {pattern_of(slug, other): Force.OPEN}) is None) == (model != other)
