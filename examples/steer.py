"""Proxy-tuning: steer a larger model by a small tuned one and the same small model untuned: python examples/steer.py [FOLDER]

The small model is tuned for two steps only, so that this takes seconds: it shows that alpha changes answers, not that it helps.
"""

import sys

import mmscale

folder = sys.argv[1] if len(sys.argv) > 1 else "runs/example"
key = "recipes.multilingual_cot.tuning"
overrides = [f"output_dir={folder}", "languages=[en,sw]", "evaluation.tasks={}", "proxy=null"]
overrides += [f"{key}.steps=2", f"{key}.packing.global_batch_size=8"]
overrides += [f"{key}.data.0.languages=[en,sw]", f"{key}.data.0.limit_per_language=16"]
tuned = mmscale.train_stage("configs/quickstart.yaml", "multilingual_cot.tuning", overrides)

question = "Anna has 12 books. Later Anna sells 5 books. Then Anna finds 3 books. How many books does Anna have now?"
for alpha in (0.0, 4.0):
    model = mmscale.load_model(
        "tinyworld:large_llm", prompt="tinyworld_math", expert=tuned, antiexpert="tinyworld:llm", alpha=alpha
    )
    [row] = mmscale.answer(model, [question], generation=mmscale.GenerationConfig(max_new_tokens=64))
    print(f"alpha {alpha}: {row.response.strip()}")
