import json
import os
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager

URL = os.environ["OPENAI_BASE_URL"]
MODEL = os.environ["MODEL"]
TOKENIZER = os.environ["MODEL_PATH"]
CAPITALS = {"France": "Paris", "Italy": "Rome", "Germany": "Berlin", "Spain": "Madrid"}

here = Path.cwd()
with (here / "capitals.jsonl").open("w") as rows:
    for country, city in CAPITALS.items():
        rows.write(json.dumps({"country": country, "city": city}) + "\n")
DATA = f"""
dataset_path: json
dataset_kwargs: {{data_files: {{test: {here / "capitals.jsonl"}}}}}
test_split: test
"""
(here / "asked.yaml").write_text(
    f"""task: capitals_asked{DATA}output_type: generate_until
doc_to_text: "What is the capital of {{{{country}}}}?"
doc_to_target: "The capital of {{{{country}}}} is {{{{city}}}}."
generation_kwargs: {{until: ["\\n"], max_gen_toks: 16, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
)
(here / "chosen.yaml").write_text(
    f"""task: capitals_chosen{DATA}output_type: multiple_choice
doc_to_text: "The capital of {{{{country}}}} is"
doc_to_choice: ["Paris", "Rome", "Berlin", "Madrid"]
doc_to_target: city
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
)
tasks = TaskManager(include_path=str(here), include_defaults=False)


def evaluate(kind: str, path: str, task: str, chat: bool, **arguments: object) -> dict[str, float]:
    results = lm_eval.simple_evaluate(
        model=kind,
        model_args={"model": MODEL, "base_url": f"{URL}/{path}", **arguments},
        tasks=[task],
        task_manager=tasks,
        apply_chat_template=chat,
        bootstrap_iters=0,
    )
    return results["results"][task]


asked = evaluate(
    "local-chat-completions",
    "chat/completions",
    "capitals_asked",
    chat=True,
    tokenizer_backend=None,
    num_concurrent=2,
)
assert asked["exact_match,none"] == 1.0, asked
chosen = evaluate(
    "local-completions",
    "completions",
    "capitals_chosen",
    chat=False,
    tokenizer=TOKENIZER,
    tokenizer_backend="huggingface",
    batch_size=4,
)
assert chosen["acc,none"] >= 0.5, chosen
