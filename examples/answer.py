"""Ask a model questions from Python, in English and in Swahili: python examples/answer.py

tinyworld's models are small enough to come with mmscale. This one was trained on English alone.
"""

import mmscale

QUESTIONS = {
    "en": "Anna has 12 books. Later Anna sells 5 books. Then Anna finds 3 books. How many books does Anna have now?",
    "sw": "Anna ana vitabu 12. Baadaye Anna anauza vitabu 5. Kisha Anna anapata vitabu 3. Sasa Anna ana vitabu kiasi gani?",
}

model = mmscale.load_model("tinyworld:llm", prompt="tinyworld_math")
for language, question in QUESTIONS.items():
    [row] = mmscale.answer(model, [question], language, mmscale.GenerationConfig(max_new_tokens=64))
    print(f"{language}: {question}\n    {row.response}")
