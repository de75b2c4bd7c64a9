"""Run by VisualQuality-R1's interpreter in its checkout: one answer an image; one that is no number gives no row."""

from __future__ import annotations

import argparse
import ast
import csv
import re

NUMBER = re.compile(r"\d+(?:\.\d+)?")


def read_prompt(readme: str) -> str:
    """The two texts that the repository's README asks with, as its first block of code that has both defines them."""
    for block in re.findall(r"```(?:python)?\n(.*?)```", readme, re.DOTALL):
        texts = {}
        for name in ("PROMPT", "QUESTION_TEMPLATE"):
            found = re.search(rf"^\s*{name} = (\(.*?^\s*\)|\".*?\"$)", block, re.DOTALL | re.MULTILINE)
            if found:
                texts[name] = ast.literal_eval(found[1].strip())
        if len(texts) == 2:
            return str(texts["QUESTION_TEMPLATE"]).format(Question=texts["PROMPT"])
    raise SystemExit("README.md has no PROMPT and QUESTION_TEMPLATE")


def read_answer(text: str) -> str | None:
    """The number between the last marks of an answer, or of an answer without marks, as text; None where there is none,
    or more than one."""
    answers = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    numbers = NUMBER.findall(answers[-1] if answers else text)
    return numbers[0] if len(numbers) == 1 else None


def main() -> None:
    import torch
    from qwen_vl_utils import process_vision_info  # type: ignore[import-not-found]
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    options = argparse.ArgumentParser()
    for name in ("--list", "--scores", "--weights", "--seed"):
        options.add_argument(name, required=True)
    given = options.parse_args()
    with open("README.md", encoding="utf-8") as readme:
        question = read_prompt(readme.read())
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        given.weights, torch_dtype=torch.bfloat16, device_map="auto", use_safetensors=True
    )
    processor = AutoProcessor.from_pretrained(given.weights)
    torch.manual_seed(int(given.seed))
    with open(given.list, newline="") as listed, open(given.scores, "w", newline="") as scores:
        rows = csv.writer(scores)
        rows.writerow(("id", "value"))
        for row in csv.DictReader(listed):
            content = [{"type": "image", "image": row["path"]}, {"type": "text", "text": question}]
            asked = [{"role": "user", "content": content}]
            text = processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, add_vision_id=True)
            images, videos = process_vision_info([asked])
            inputs = processor(text=[text], images=images, videos=videos, padding=True, return_tensors="pt")
            inputs = inputs.to(model.device)
            made = model.generate(**inputs, max_new_tokens=2048, do_sample=True, top_k=50, top_p=1)
            answer = read_answer(
                processor.batch_decode(made[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)[0]
            )
            if answer is not None:
                rows.writerow((row["id"], answer))
            scores.flush()


if __name__ == "__main__":
    main()
