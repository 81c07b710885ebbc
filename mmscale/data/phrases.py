"""What a solution says in each language: "let's think step by step", and the line that states the answer.

A configuration adds languages and replaces phrases: `prompt: {name: mcot, phrases: {ko: …}}`, `translate.answer_phrases`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mmscale.data.records import Problem, Record
from mmscale.data.template import Prompt, expect
from mmscale.errors import UserError

# mCoT (Lai & Nissim 2024), the "let's think step by step" of each language.
MCOT_PHRASES: dict[str, str] = {
    "bn": "আসুন ধাপে ধাপে চিন্তা করি।",
    "de": "Denken wir Schritt für Schritt.",
    "en": "Let's think step by step.",
    "es": "Pensemos paso a paso.",
    "fr": "Réfléchissons étape par étape.",
    "ja": "段階的に考えてみましょう。",
    "ru": "Давайте думать поэтапно.",
    "sw": "Hebu fikiria hatua kwa hatua.",
    "te": "అంచెలంచెలుగా ఆలోచిద్దాం.",
    "th": "ลองคิดทีละขั้นตอน",
    "zh": "让我们一步步思考。",
}
OWN_PHRASES: dict[str, str] = {
    "am": "ደረጃ በደረጃ እናስብ።",
    "ha": "Bari mu yi tunani mataki-mataki.",
    "ko": "단계별로 생각해 봅시다.",
    "yo": "Ẹ jẹ́ kí á ronú ní ìpele-ìpele.",
}
"""Ours, in the manner of mCoT's, for languages that it has not; no published model was trained with them."""

ANSWERS: dict[str, str] = {
    "am": "መልሱ፦ {answer}",
    "ar": "الجواب هو: {answer}",
    "bg": "Отговорът е: {answer}",
    "bn": "উত্তর হল: {answer}",
    "de": "Die Antwort ist: {answer}",
    "el": "Η απάντηση είναι: {answer}",
    "en": "The answer is: {answer}",
    "es": "La respuesta es: {answer}",
    "et": "Vastus on: {answer}",
    "fr": "La réponse est : {answer}",
    "ha": "Amsar ita ce: {answer}",
    "hi": "उत्तर है: {answer}",
    "id": "Jawabannya adalah: {answer}",
    "it": "La risposta è: {answer}",
    "ja": "答えは：{answer}",
    "ko": "답은: {answer}",
    "nl": "Het antwoord is: {answer}",
    "pl": "Odpowiedź to: {answer}",
    "pt": "A resposta é: {answer}",
    "ru": "Ответ: {answer}",
    "sw": "Jibu ni: {answer}",
    "ta": "பதில்: {answer}",
    "te": "సమాధానం: {answer}",
    "th": "คำตอบคือ: {answer}",
    "tr": "Cevap: {answer}",
    "ur": "جواب: {answer}",
    "vi": "Câu trả lời là: {answer}",
    "yo": "Ìdáhùn náà ni: {answer}",
    "zh": "答案是：{answer}",
}
"""The line "The answer is: 72" in each language; our answer rule reads all of them."""


def mcot_prompt(phrases: Mapping[str, str] = {}) -> Callable[[Record], Prompt]:
    """mCoT's prompt with more phrases, or others."""
    known = {**MCOT_PHRASES, **OWN_PHRASES, **phrases}

    def prompt(record: Record) -> Prompt:
        code = expect(Problem, record).language
        if code not in known:
            raise UserError(
                f"prompt mcot has no step-by-step phrase for language '{code}': use one of {', '.join(sorted(known))}, or give it "
                f"one, prompt: {{name: mcot, phrases: {{{code}: …}}}}"
            )
        return Prompt("Question:\n", record.text, f"\nAnswer:\n{known[code]}\n")

    return prompt
