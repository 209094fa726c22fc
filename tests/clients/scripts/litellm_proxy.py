"""OpenAI's client in front of LiteLLM's proxy in front of the service."""

import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from openai import OpenAI

MODEL = os.environ["MODEL"]
QUESTION = "What is the capital of France?"
PARIS = "The capital of France is Paris."
KEY = f"sk-{secrets.token_hex(16)}"

Path("proxy.yaml").write_text(
    f"""
model_list:
  - model_name: {MODEL}
    litellm_params:
      model: openai/{MODEL}
      api_base: os.environ/OPENAI_BASE_URL
      api_key: os.environ/OPENAI_API_KEY
general_settings: {{master_key: {KEY}}}
"""
)
with socket.socket() as opened:
    opened.bind(("127.0.0.1", 0))
    port = opened.getsockname()[1]
program = str(Path(sys.executable).with_name("litellm"))
proxy = subprocess.Popen(
    [program, "--config", "proxy.yaml", "--host", "127.0.0.1", "--port", str(port)]
)
try:
    deadline = time.monotonic() + 120
    while True:
        assert proxy.poll() is None
        assert time.monotonic() < deadline
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health/liveliness").is_success:
                break
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY)
    asked = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    assert client.chat.completions.create(**asked).choices[0].message.content == PARIS
    stream = client.chat.completions.create(stream=True, **asked)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == PARIS
    response = client.responses.create(model=MODEL, input=QUESTION, temperature=0)
    assert response.output_text == PARIS
    events = client.responses.create(model=MODEL, input=QUESTION, temperature=0, stream=True)
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == PARIS
    assert len(client.embeddings.create(model=MODEL, input=["one", "two"]).data) == 2
    assert MODEL in [model.id for model in client.models.list()]
finally:
    proxy.terminate()
    proxy.wait(60)
