"""The same Google model at the Gemini API and at Vertex AI: one vector for one request, whatever the request says."""

from __future__ import annotations

import numpy as np
import pytest

from providers.base import EmbedCall, Endpoint, InputType, Kind
from providers.google import GoogleProvider
from providers.vertex import VertexProvider
from tests.fakes.google import GEMINI_1, GEMINI_2, FakeGoogle
from tests.fakes.vertex import REGION, FakeVertex


@pytest.mark.parametrize("model", [GEMINI_1, GEMINI_2])
@pytest.mark.parametrize("input_type", [None, *InputType])
@pytest.mark.parametrize("dimensions", [None, 768])
async def test_both_give_the_same_vector(
    google: FakeGoogle, vertex: FakeVertex, model: str, input_type: InputType | None, dimensions: int | None
) -> None:
    call = EmbedCall(model, ["one"], dimensions or 3072, dimensions=dimensions, input_type=input_type)

    here = GoogleProvider(Endpoint("g", Kind.GOOGLE, base_url=google.base_url, secret=google.secret))
    there = VertexProvider(Endpoint("v", Kind.VERTEX, base_url=vertex.base_url, region=REGION, secret=vertex.secret))

    answers = [await each.embed(call, timeout_s=5) for each in (here, there)]
    np.testing.assert_allclose(answers[0].vectors, answers[1].vectors, rtol=1e-6)
