"""A viewer of trajectories: widgets in a notebook, one figure elsewhere."""

from __future__ import annotations

import io
import sys
from importlib.util import find_spec
from typing import Any

from PIL import Image

from rust_diffusion.model.card import FLOW, schedule_of
from rust_diffusion.model.ema import averaged
from rust_diffusion.model.network import Network
from rust_diffusion.sampling.sampler import SAMPLERS
from rust_diffusion.support import checks
from rust_diffusion.view.pictures import grid
from rust_diffusion.view.trajectory import PARTS, Trajectory, follow

#: Steps to begin with: a slider of as many places.
_STEPS = 50
_PICTURE = "220px"


def explore(
    model: Any,
    *,
    sampler: str | None = None,
    sample_steps: int | None = None,
    eta: float = 0.0,
    seed: int = 0,
    image_size: Any = None,
    interactive: bool | None = None,
) -> Any:
    """Look at how an image comes out of noise, step by step.

    In a notebook with ipywidgets there is a slider along the way, above what the network was shown (x_t), the clean
    image that it was taken for (x0_hat), and the noise that is then in it; sampler, steps, eta and seed can be changed.
    Elsewhere it is one figure of six places on the way.

    Parameters
    ----------
    model : DiffusionUNet, another network of the engine, or EMA
        With the schedule it was trained with, as after `train` and `load`.
    sampler : str, optional
        To begin with; one that `model.sample` knows. "flow" is for models that predict "flow", which the others draw
        with too. Default: "flow" for those, or "ddim".
    sample_steps : int, optional
        To begin with. Default: 50, or T if that is less.
    eta : float
        For "ddim": 0 draws no noise after the start, 1 as much as DDPM.
    seed : int
        Of the start and of all noise.
    image_size : int or (int, int), optional
        Default: what the model was trained on.
    interactive : bool, optional
        Whether widgets are made. Default: where there are some, and a notebook to show them.

    Returns
    -------
    ipywidgets.Widget or matplotlib.figure.Figure
        Jupyter shows either as the cell's output.

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used.
    ImportError
        If `interactive` is True and ipywidgets is not installed.
    """
    model = averaged(model)
    if not isinstance(model, Network):
        raise TypeError(
            f"model must be a DiffusionUNet or another network of the engine, got {type(model).__name__}"
        )
    samplers = _samplers_for(model)
    if sampler is None:
        sampler = FLOW if model.objective == FLOW else "ddim"
    elif checks.choice("sampler", sampler, tuple(SAMPLERS)) not in samplers:
        raise ValueError(
            f"sampler must be one of {', '.join(map(repr, samplers))}, which draw with a model that predicts "
            f"{model.objective!r}, got {sampler!r}"
        )
    if sampler == "ddpm" and sample_steps is not None:
        raise ValueError(f"sample_steps={sample_steps} is for other samplers: 'ddpm' takes all steps")
    if sampler != "ddim" and eta != 0.0:
        raise ValueError(f"eta={eta!r} is for sampler='ddim', got sampler={sampler!r}")
    most = len(schedule_of(model))
    steps = (
        min(_STEPS, most) if sample_steps is None else checks.integer("sample_steps", sample_steps, 1, most)
    )
    start = {"sampler": sampler, "steps": steps, "eta": checks.number("eta", eta, 0.0)}
    start["seed"] = checks.integer("seed", seed, 0, 2**31 - 1)
    if interactive is None:
        interactive = find_spec("ipywidgets") is not None and _in_notebook()
    if checks.flag("interactive", interactive):
        return _Viewer(model, samplers, start, image_size, most).box
    return _follow(model, start, image_size).figure()


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and hasattr(shell.get_ipython(), "kernel")


def _samplers_for(model: Network) -> list[str]:
    """Those that draw with what the model predicts: straight paths need a model of them."""
    return [name for name in SAMPLERS if name != FLOW or model.objective == FLOW]


def _follow(model: Network, chosen: dict[str, Any], image_size: Any) -> Trajectory:
    """A trajectory with those of the choices that its sampler takes."""
    options: dict[str, Any] = {}
    if chosen["sampler"] != "ddpm":
        options["sample_steps"] = chosen["steps"]
    if chosen["sampler"] == "ddim":
        options["eta"] = chosen["eta"]
    return follow(model, chosen["sampler"], chosen["seed"], image_size, **options)


class _Viewer:
    """The widgets, and what happens when one is moved."""

    def __init__(
        self, model: Network, samplers: list[str], start: dict[str, Any], image_size: Any, most: int
    ) -> None:
        import ipywidgets as widgets

        self._model, self._image_size = model, image_size
        #: None until one could be drawn.
        self._way: Trajectory | None = None
        later = {"continuous_update": False}
        self._controls: dict[str, Any] = {
            "sampler": widgets.Dropdown(options=samplers, value=start["sampler"], description="sampler"),
            "steps": widgets.IntSlider(start["steps"], 1, most, description="steps", **later),
            "eta": widgets.FloatSlider(
                start["eta"], min=0, max=max(1, start["eta"]), step=0.1, description="eta", **later
            ),
            "seed": widgets.BoundedIntText(start["seed"], min=0, max=2**31 - 1, description="seed"),
        }
        self._place = widgets.IntSlider(0, 0, 0, description="step", layout=widgets.Layout(width="700px"))
        self._said = widgets.Label()
        layout = {"width": _PICTURE, "height": _PICTURE}
        self._pictures = [widgets.Image(format="png", layout=widgets.Layout(**layout)) for _ in PARTS]
        columns = [
            widgets.VBox([widgets.Label(part), picture])
            for part, picture in zip(PARTS, self._pictures, strict=True)
        ]
        self.box = widgets.VBox(
            [
                widgets.HBox(list(self._controls.values())[:2]),
                widgets.HBox(list(self._controls.values())[2:]),
                *(self._place, self._said, widgets.HBox(columns)),
            ]
        )
        self._draw()
        for control in self._controls.values():
            control.observe(lambda _: self._draw(), "value")
        self._place.observe(lambda _: self._show(), "value")

    def _draw(self) -> None:
        """Follow the way anew."""
        chosen = {name: control.value for name, control in self._controls.items()}
        self._controls["eta"].disabled = chosen["sampler"] != "ddim"
        self._controls["steps"].disabled = chosen["sampler"] == "ddpm"
        self._said.value = "drawing..."
        try:
            self._way = _follow(self._model, chosen, self._image_size)
        except (ValueError, TypeError, MemoryError) as error:
            self._said.value = str(error)
            return
        self._place.max = len(self._way.stops) - 1
        self._show()

    def _show(self) -> None:
        """Show the stop that the slider is at."""
        if self._way is None:
            return
        stop = self._way.stops[self._place.value]
        for picture, image in zip(self._pictures, stop.images, strict=True):
            file = io.BytesIO()
            Image.fromarray(grid(image[None])).save(file, "PNG")
            picture.value = file.getvalue()
        self._said.value = f"step {self._place.value + 1} of {len(self._way.stops)}, t = {stop.timestep:.4g}"
