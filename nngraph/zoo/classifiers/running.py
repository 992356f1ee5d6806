"""Running the trained networks of a zoo, many at once."""

from __future__ import annotations

from nngraph.errors import ArchitectureError
from nngraph.nn import Hook, ModuleRunner
from nngraph.zoo.classifiers.trained import spec_of
from nngraph.zoo.store.zoo import Zoo


def says_how_to_run(zoo: Zoo) -> bool:
    """Return whether a zoo holds trained classifiers, which :func:`runner_of` runs."""
    return any("specs" in origin.recipe for origin in zoo.manifest.origins)


def runner_of(zoo: Zoo) -> ModuleRunner:
    """Return what runs the networks of a zoo of trained classifiers, for models with probes.

    It is fed standardised images ``[P, C, H, W]``, as :func:`~nngraph.zoo.classifier_of` is. Every
    group of neurons shows: a norm's input before the norm, a hidden layer after its activation.

    Raises:
        ArchitectureError: if the zoo does not say how its networks run, or they read images of
            different shapes.

    Example:
        >>> runner = runner_of(Zoo.open("zoos/small-cnn-mnist"))  # doctest: +SKIP
        >>> ProbeNetwork(zoo.architectures, 1, runner=runner)  # doctest: +SKIP
    """
    specs = {architecture: spec_of(zoo, architecture) for architecture in zoo.architectures}
    shapes = {spec.image_shape for spec in specs.values()}
    if len(shapes) != 1:
        raise ArchitectureError(
            f"the networks of {zoo.path} read images of the shapes {sorted(shapes)}; probes are "
            "inputs that all networks share. Expected one shape."
        )
    height, width, channels = shapes.pop()
    hooks = {}
    for architecture, spec in specs.items():
        maps = {f"hidden.{i}.map": Hook(f"layers.{i}") for i in range(len(spec.widths))}
        hidden = {f"hidden.{i}": Hook(f"activations.{i}") for i in range(len(spec.widths))}
        hooks[architecture] = {**maps, **hidden} if spec.norm else hidden
    modules = {architecture: spec.module() for architecture, spec in specs.items()}
    return ModuleRunner(modules, (channels, height, width), hooks)
