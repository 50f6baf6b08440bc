"""Run the notebooks from top to bottom and keep their outputs, ready to be committed: run.py [NAME ...].

A progress bar is a widget, which shows nothing without its server: its last state is kept as a line of text. Paths of
this machine are taken out.
"""

import html
import os
import re
import sys
from pathlib import Path

import nbclient
import nbformat

FOLDER = Path(__file__).parent
WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"


def as_text(output, states):
    """The line that tqdm's bar shows: a box of text, bar and text."""
    parts = [
        states[child.removeprefix("IPY_MODEL_")]
        for child in states[output.data[WIDGET]["model_id"]]["children"]
    ]
    left, bar, right = (part.get("value", "") for part in parts)
    filled = round(10 * bar / max(parts[1]["max"], 1))
    return html.unescape(f"{left}|{'█' * filled}{' ' * (10 - filled)}|{right}".replace("\xa0", " "))


def without_paths(text):
    text = re.sub(rf"{re.escape(str(FOLDER.parent.resolve()))}/?", "", text)
    return re.sub(r"/(?:tmp|root|home)/[^\s'\"<>]*/", "", text)


def clean(notebook):
    states = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    states = {key: widget["state"] for key, widget in states.items()}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)
        kept = []
        for output in cell.outputs:
            if WIDGET in output.get("data", {}):
                output = nbformat.v4.new_output("stream", name="stderr", text=as_text(output, states) + "\n")
            for kind, text in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output.data[kind] = without_paths(text)
            if output.output_type == "stream":
                output.text = without_paths(output.text)
                if kept and kept[-1].output_type == "stream" and kept[-1].name == output.name:
                    kept[-1].text += output.text
                    continue
            kept.append(output)
        cell.outputs = kept
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def main(names):
    for path in [FOLDER / f"{name}.ipynb" for name in names] or sorted(FOLDER.glob("*.ipynb")):
        print(f"running {path.name}", flush=True)
        notebook = nbformat.read(path, as_version=4)
        os.environ.setdefault("MAYO", "no-such-folder")  # what is committed is drawn from phantoms
        nbclient.NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": FOLDER}}).execute()
        clean(notebook)
        nbformat.validate(notebook)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])
