"""test_openai_sdk.py - the official OpenAI SDK, unchanged, against a cluster of three processes.

What the SDK does not look at closely (the bytes of the event stream, headers, what happens to
unknown fields) is looked at with curl and plain HTTP at the end.
"""

import concurrent.futures
import json
import math
import re
import subprocess

import openai
import pytest

import harness

QUESTION = [{"role": "user", "content": "What is gravity?"}]


@pytest.fixture(scope="module")
def name(cluster):
    return cluster.rest.get("/v1/models").json()["data"][0]["id"]


@pytest.fixture(scope="module")
def client(cluster):
    with openai.OpenAI(base_url=cluster.rest.url + "/v1", api_key=harness.KEY,
                       timeout=harness.HANG_S, max_retries=0) as c:
        yield c


def ask(client, model, **fields):
    fields = {"messages": QUESTION, "temperature": 0, "max_tokens": 24, **fields}
    return client.chat.completions.create(model=model, **fields)


def joined(chunks):
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


# ---- models ----

def test_models(client, name):
    models = client.models.list().data
    assert [m.id for m in models] == [name]
    assert models[0].object == "model" and models[0].owned_by == "mlx-distributed"
    assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError) as e:
        client.models.retrieve("gpt-4o")
    assert e.value.code == "model_not_found" and name in e.value.message


# ---- answers ----

def test_answer(client, name):
    a = ask(client, name)
    assert re.match(r"chatcmpl-\w+$", a.id) and a.object == "chat.completion" and a.model == name
    assert a.created > 1.7e9 and a.system_fingerprint
    [choice] = a.choices
    assert choice.index == 0 and choice.finish_reason == "length"
    assert choice.message.role == "assistant" and choice.message.refusal is None
    assert "Gravity" in choice.message.content
    assert a.usage.prompt_tokens == 34 and a.usage.completion_tokens == 24
    assert a.usage.total_tokens == 58


def test_streamed_answer(client, name):
    whole = ask(client, name)
    chunks = list(ask(client, name, stream=True))
    assert joined(chunks) == whole.choices[0].message.content
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1 and chunks[0].id != whole.id
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(c.choices[0].delta.role is None for c in chunks[1:])
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert len(chunks) > 10  # it comes as it is made


def test_the_end_of_the_turn_is_a_stop(client, name):
    question = "Answer with one word: what is the capital of Italy?"
    a = ask(client, name, messages=[{"role": "user", "content": question}])
    assert a.choices[0].finish_reason == "stop"
    assert a.choices[0].message.content == "The capital of Italy is Rome."
    assert a.usage.completion_tokens == 8  # with the one that ends the turn


def test_conversation_with_all_roles_and_parts(client, name):
    messages = [
        {"role": "developer", "content": "You are terse."},
        {"role": "user", "content": [{"type": "text", "text": "Say"}, {"type": "text",
                                                                      "text": "one."}]},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "Continue with the next number.", "name": "anna"},
    ]
    same = [{"role": "system", "content": "You are terse."},
            {"role": "user", "content": "Say\none."}, *messages[2:]]
    a, b = ask(client, name, messages=messages), ask(client, name, messages=same)
    assert a.choices[0].message.content == b.choices[0].message.content
    assert a.usage.prompt_tokens == b.usage.prompt_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(client, name, stream):
    whole = ask(client, name).choices[0].message.content
    for stop in ([whole[20:24]], ["no such text", whole[11:19]], whole[30:33]):
        first = min(whole.find(s) for s in ([stop] if isinstance(stop, str) else stop)
                    if s in whole)
        a = ask(client, name, stop=stop, stream=stream)
        if stream:
            chunks = list(a)
            text, reason = joined(chunks), chunks[-1].choices[0].finish_reason
        else:
            text, reason = a.choices[0].message.content, a.choices[0].finish_reason
        assert (text, reason) == (whole[:first], "stop")


def test_a_seed_makes_it_reproducible(client, name):
    def text(**fields):
        return ask(client, name, temperature=1.2, **fields).choices[0].message.content
    assert text(seed=7) == text(seed=7)
    assert text(seed=7) != text(seed=8)
    assert len({text() for _ in range(4)}) > 1  # without one it is drawn


def test_max_completion_tokens_wins(client, name):
    a = ask(client, name, max_tokens=20, max_completion_tokens=5)
    assert a.usage.completion_tokens == 5


def test_usage_in_the_stream(client, name):
    chunks = list(ask(client, name, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    u = chunks[-1].usage
    assert (u.prompt_tokens, u.completion_tokens, u.total_tokens) == (34, 24, 58)
    assert all(c.usage is None for c in chunks[:-1])
    chunks = list(ask(client, name, stream=True))
    assert all(c.choices and c.usage is None for c in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(client, name, stream):
    a = ask(client, name, logprobs=True, top_logprobs=3, stream=stream)
    if stream:
        chunks = list(a)
        text = joined(chunks)
        entries = [e for c in chunks if c.choices[0].logprobs
                   for e in c.choices[0].logprobs.content]
    else:
        text, entries = a.choices[0].message.content, a.choices[0].logprobs.content
    assert len(entries) == 24
    assert b"".join(bytes(e.bytes) for e in entries).decode() == text
    for e in entries:
        assert [t.logprob for t in e.top_logprobs] == sorted(
            (t.logprob for t in e.top_logprobs), reverse=True)
        assert len(e.top_logprobs) == 3
        # greedy: the token is the most likely one
        assert (e.token, e.logprob) == (e.top_logprobs[0].token, e.top_logprobs[0].logprob)
        assert sum(math.exp(t.logprob) for t in e.top_logprobs) <= 1 + 1e-6


def test_logit_bias(client, name):
    a = ask(client, name, logprobs=True, max_tokens=3)
    first = client.post("/../tokenize", body={"content": a.choices[0].logprobs.content[0].token},
                        cast_to=object)["tokens"]
    b = ask(client, name, max_tokens=3, logit_bias={str(first[0]): -100})
    assert b.choices[0].message.content != a.choices[0].message.content
    c = ask(client, name, max_tokens=3, logit_bias={str(first[0]): 100})
    assert c.choices[0].message.content == a.choices[0].logprobs.content[0].token * 3


def test_legacy_completions(client, name):
    a = client.completions.create(model=name, prompt="The capital of France is", max_tokens=4,
                                  temperature=0)
    assert a.object == "text_completion" and "Paris" in a.choices[0].text
    chunks = list(client.completions.create(model=name, prompt="The capital of France is",
                                            max_tokens=4, temperature=0, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == a.choices[0].text


def test_raw_response_has_a_request_id(client, name):
    raw = client.chat.completions.with_raw_response.create(
        model=name, messages=QUESTION, max_tokens=1, extra_headers={"X-Request-Id": "mine-1"})
    assert raw.headers["x-request-id"] == "mine-1" and raw.parse().choices


def test_several_at_once(client, name):
    """Each gets its own answer, the same as alone."""
    prompts = [f"Name {n} animals." for n in range(2, 10)]

    def answer(prompt, stream):
        a = ask(client, name, messages=[{"role": "user", "content": prompt}], stream=stream)
        return joined(a) if stream else a.choices[0].message.content

    alone = [answer(p, False) for p in prompts]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for stream in (False, True):
            together = list(pool.map(lambda p, s=stream: answer(p, s), prompts))
            assert together == alone
    assert len(set(alone)) > 4


def test_leaving_the_stream_early(client, name, cluster):
    stream = ask(client, name, stream=True, max_tokens=1500, extra_body={"ignore_eos": True})
    for _ in range(5):
        next(stream)
    stream.close()
    for n in cluster.nodes:
        harness.until(lambda n=n: n.sessions() == 0, f"{n.device} has freed the session")


def test_async_client(cluster, name):
    import asyncio

    async def one(client, prompt):
        chunks = await client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": prompt}], temperature=0,
            max_tokens=8, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in chunks])

    async def main():
        async with openai.AsyncOpenAI(base_url=cluster.rest.url + "/v1", api_key=harness.KEY,
                                      max_retries=0) as client:
            return await asyncio.gather(*[one(client, "What is gravity?") for _ in range(4)])
    answers = asyncio.run(main())
    assert len(set(answers)) == 1 and answers[0].startswith("Gravity")


# ---- errors ----

def test_no_key_and_wrong_key(cluster, client, name):
    reply = cluster.rest.post("/v1/chat/completions", {"messages": QUESTION}, key=None)
    assert reply.error() == (401, "invalid_api_key", None)
    assert reply.headers["www-authenticate"] == "Bearer"
    with pytest.raises(openai.AuthenticationError):
        ask(client, name, extra_headers={"Authorization": openai.Omit()})
    with pytest.raises(openai.PermissionDeniedError) as e:
        ask(client.with_options(api_key=harness.KEY + "x"), name)
    assert e.value.code == "invalid_api_key" and e.value.type == "permission_error"


def test_unknown_model(client, name):
    with pytest.raises(openai.NotFoundError) as e:
        ask(client, "gpt-4o")
    assert e.value.code == "model_not_found" and e.value.param == "model"
    assert name in e.value.message


@pytest.mark.parametrize("stream", [False, True])
def test_prompt_that_does_not_fit(client, name, stream):
    with pytest.raises(openai.BadRequestError) as e:
        ask(client, name, messages=[{"role": "user", "content": "word " * 3000}], stream=stream)
    assert e.value.code == "context_length_exceeded" and e.value.type == "invalid_request_error"
    assert "2048" in e.value.message and re.search(r"\b30[0-9]{2}\b", e.value.message)


@pytest.mark.parametrize("field, value", [
    ("n", 2),
    ("response_format", {"type": "json_object"}),
    ("tools", [{"type": "function", "function": {"name": "f", "parameters": {}}}]),
    ("tool_choice", "required"),
    ("modalities", ["text", "audio"]),
    ("reasoning_effort", "high"),
])
def test_what_would_change_the_answer_is_refused_by_name(client, name, field, value):
    with pytest.raises(openai.BadRequestError) as e:
        ask(client, name, **{field: value})
    assert e.value.code == "unsupported_parameter" and e.value.param == field


def test_neutral_values_are_fine(client, name):
    want = ask(client, name).choices[0].message.content
    got = ask(client, name, n=1, response_format={"type": "text"}, tools=[], tool_choice="none",
              user="me", metadata={"a": "b"}, store=False, parallel_tool_calls=True,
              presence_penalty=0, frequency_penalty=0, top_p=1, modalities=["text"],
              service_tier="auto")
    assert got.choices[0].message.content == want


@pytest.mark.parametrize("field, value", [
    ("temperature", 3), ("temperature", -1), ("top_p", -0.1), ("top_p", 1.1), ("max_tokens", 0),
    ("max_tokens", -1), ("top_logprobs", 21), ("presence_penalty", 5), ("logit_bias", {"x": 1}),
    ("stop", ["a"] * 5), ("seed", 1.5), ("messages", []),
])
def test_values_out_of_range_are_refused_by_name(client, name, field, value):
    extra = {"logprobs": True} if field == "top_logprobs" else {}
    with pytest.raises(openai.BadRequestError) as e:
        ask(client, name, **{field: value}, **extra)
    assert e.value.param == field and field in e.value.message


def test_retries_wait_as_told(cluster, client, name):
    """The SDK repeats what is worth repeating, and nothing else: the server counts."""
    def refused():
        for line in cluster.rest.get("/metrics").body.decode().splitlines():
            if line.startswith("mlx_requests_total") and 'code="400"' in line and \
                    "/v1/chat/completions" in line:
                return int(float(line.split()[-1]))
        return 0
    before = refused()
    with pytest.raises(openai.BadRequestError):
        ask(client.with_options(max_retries=2), name, temperature=9)
    assert refused() == before + 1


# ---- without the SDK ----

def test_curl_sees_every_byte_of_the_stream(cluster, name):
    body = {"model": name, "messages": QUESTION, "temperature": 0, "max_tokens": 6, "stream": True,
            "stream_options": {"include_usage": True}, "mlxd": {"logits_digest": True}}
    done = subprocess.run(
        ["curl", "-sS", "-N", "-i", "--max-time", "60", cluster.rest.url + "/v1/chat/completions",
         "-H", f"Authorization: Bearer {harness.KEY}", "-H", "Content-Type: application/json",
         "-d", json.dumps(body)], capture_output=True, check=True)
    head, stream = done.stdout.split(b"\r\n\r\n", 1)
    status, *lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
    assert status.split()[1] == "200"
    assert headers["content-type"].split(";")[0] == "text/event-stream"
    assert headers["cache-control"] == "no-cache" and headers["x-accel-buffering"] == "no"
    assert headers["transfer-encoding"] == "chunked" and headers["x-request-id"]

    *events, end = stream.split(b"\n\n")
    assert end == b"" and events[-1] == b"data: [DONE]"
    assert all(e.startswith(b"data: {") and b"\n" not in e for e in events[:-1])
    objects = [json.loads(e[6:]) for e in events[:-1]]
    first, *middle, last, usage = objects
    same = ("id", "object", "created", "model", "system_fingerprint")
    assert len({tuple(o[k] for k in same) for o in objects}) == 1
    assert first["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": ""},
                                 "logprobs": None, "finish_reason": None}]
    for o in middle:
        assert o["usage"] is None and o["choices"][0]["finish_reason"] is None
        assert set(o["choices"][0]["delta"]) == {"content"}
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None,
                                "finish_reason": "length"}]
    assert re.fullmatch("[0-9a-f]{64}", last["mlxd"]["logits_sha256"])
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 6


def test_a_character_is_never_cut_in_two(cluster):
    """Every chunk by itself is UTF-8, also while a character of several tokens is being made."""
    with cluster.rest.stream("Repeat: 日本語 😀🎉 é", temperature=0, max_tokens=60,
                             logit_bias={}) as s:
        raw = s.response.read()
    contents = []
    for event in raw.split(b"\n\n")[:-2]:
        contents.append(json.loads(event[6:].decode())["choices"][0]["delta"].get("content", ""))
    text = "".join(contents)
    assert any(ord(c) > 0x7f for c in text), text
    for c in contents:
        assert "\ufffd" not in c or "\ufffd" in text


def test_unknown_fields_are_named(cluster):
    reply = cluster.rest.post("/v1/chat/completions", {
        "messages": QUESTION, "max_tokens": 1, "frobnicate": 1, "agent_id": "x"})
    assert reply.status == 200
    assert {f.strip() for f in reply.headers["x-mlxd-ignored"].split(",")} == {
        "frobnicate", "agent_id"}
    reply = cluster.rest.post("/v1/chat/completions", {
        "messages": QUESTION, "max_tokens": 1, "frobnicate": 1, "strict_fields": True})
    assert reply.error() == (400, "unknown_parameter", "frobnicate")


def test_both_ways_to_send_the_key(cluster):
    rest, key = cluster.rest, harness.KEY
    bearer = {"Authorization": f"Bearer {key}"}
    for headers in ({"X-API-Key": key}, bearer, {"X-API-Key": key, **bearer}):
        assert rest.request("GET", "/v1/models", key=None, headers=headers).status == 200
    differ = {"X-API-Key": key + "2", **bearer}
    assert rest.request("GET", "/v1/models", key=None, headers=differ).status == 400


def test_what_a_node_tells_about_itself(cluster, name):
    rest = cluster.rest
    root = rest.get("/", key=None).json()
    assert set(root) == {"message", "device", "role", "model", "status"}
    assert (root["device"], root["role"], root["model"]) == ("mini1", "coordinator", name)
    health = rest.get("/health", key=None).json()
    assert health["status"] == "healthy" and health["device"] == "mini1"
    assert health["exactness"] == "bitwise" and health["degraded"] is False
    status = rest.get("/cluster-status").json()
    assert status["coordinator"] == "mini1"
    assert set(status["devices"]) == {"mini1", "mini2", "master"}
    assert sorted(n for d in status["devices"].values() for n in d["layers"]) == list(range(30))
    stats = rest.get("/distributed-stats").json()
    assert stats["connected_devices"] == 3 and stats["is_coordinator"] is True
    assert stats["total_tokens_generated"] > 0
    for w in cluster.workers:
        info = w.rest.get("/device-info").json()
        assert (info["device_id"], info["role"]) == (w.device, "worker")
        assert info["layers"] == status["devices"][w.device]["layers"]
        assert w.rest.get("/distributed-stats").json()["is_coordinator"] is False
        assert w.rest.get("/health", key=None).json()["device"] == w.device
        assert w.rest.get("/v1/models").status == 404
        assert w.rest.post("/register", {"device_id": w.device}).status == 403
        answer = rest.post("/register", {"device_id": w.device, "hostname": "h", "port": 1,
                                         "layers": []})
        assert answer.json() == {"status": "registered", "device_id": w.device}
    assert rest.post("/register", {"device_id": "nobody"}).status == 404


def test_metrics(cluster):
    for n in cluster.nodes:
        reply = n.rest.get("/metrics")
        assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
        text = reply.body.decode()
        for gauge in ("mlx_gpu_utilization", "mlx_memory_usage_mb", "mlx_inference_latency_ms"):
            assert f"# TYPE {gauge} gauge\n" in text
        for gauge in ("mlx_memory_usage_mb", "mlx_inference_latency_ms"):
            value = re.search(rf'^{gauge}{{device="{n.device}"}} (\S+)$', text, re.M)
            assert value and float(value[1]) > 0, gauge
        for line in text.splitlines():
            assert re.fullmatch(r'#.*|[a-z_]+({(\w+="[^"]*",?)+})? \S+', line), line
