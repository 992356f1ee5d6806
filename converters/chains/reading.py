"""Reading a chain of affine maps off the operations of a forward, whoever recorded them.

A value of the forward is what it is to a chain: :class:`NeuronValues`, a parameter as it is stored
(:class:`Weight`), or a number. :class:`ChainReader` says what an operation makes of such values,
and refuses every other one. So what is read is what is computed: nothing between two layers is
passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from converters import elementwise
from converters.elementwise import NEURON, Expression
from nngraph.graph import Activation, ChainLayer

#: Operators that give back the entries that they take.
PASSIVE = frozenset({
    "clone", "alias", "detach", "contiguous", "lift", "lift_fresh", "lift_fresh_copy",
    "requires_grad", "positive", "conj", "resolve_conj", "resolve_neg",
})  # fmt: skip
#: Operators that do so where they do not drop entries.
DROPOUTS = frozenset({
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout",
    "feature_alpha_dropout",
})  # fmt: skip
#: Operators that keep entries in their order, and may change the shape.
RESHAPES = frozenset({
    "view", "reshape", "unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze",
})  # fmt: skip
#: Operators that are such where they leave the shape as it is.
SELECTIONS = frozenset({"expand", "slice", "narrow", "expand_as", "broadcast_to", "view_as"})
#: Operators that change the type alone.
CASTS = frozenset({"to_copy", "to", "type_as"})
#: Operators whose entries are a number, whatever they take.
_FILLED = {"zeros_like": 0.0, "ones_like": 1.0}
_PRODUCTS = ("matmul", "mm", "bmm")
_TRANSPOSES = ("t", "T", "mT", "H", "mH", "numpy_T", "matrix_H", "transpose", "swapaxes", "permute")


class NoChain(Exception):
    """An operation that no chain has; says why, as the end of a sentence about it."""

    def __init__(self, why: str, made_before: bool = False) -> None:
        super().__init__(why)
        #: whether what it takes is to blame, and not the operation itself
        self.made_before = made_before


@dataclass(frozen=True)
class Weight:
    """A parameter as it is stored, or its transpose."""

    name: str
    transposed: bool = False


@dataclass(frozen=True)
class NeuronValues:
    """The values of one layer: a function of the pre-activation that its maps give."""

    #: the affine maps so far; none for the input. The last has no activation yet.
    maps: tuple[ChainLayer, ...] = ()
    expression: Expression = NEURON
    #: what the function is composed of, for people
    operators: tuple[str, ...] = ()


ChainValue: TypeAlias = "NeuronValues | Weight | float"


class ChainReader:
    """Applies operations to the values of a chain, whose parameters have these shapes.

    Each activation must be one of the table where they are ``exact``; else others are ``other``.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], exact: bool) -> None:
        self.shapes = shapes
        self.exact = exact

    def apply(self, name: str, operator: str, arguments: Mapping[str, Any]) -> ChainValue:
        """Return what an operation makes of its arguments; raise ``NoChain`` if no chain has it.

        Args:
            name: base name of the operator, such as ``"leaky_relu"``.
            operator: what people call it, such as ``"aten.leaky_relu"``.
            arguments: by the names of its schema, in their order.
        """
        given = {key: value for key, value in arguments.items() if value is not None}
        first = next(iter(given.values()), None)
        if name in PASSIVE or (name in DROPOUTS and self._keeps(name, given)):
            if isinstance(first, (NeuronValues, Weight, float)):
                return first
        elif name in _FILLED:
            return _FILLED[name]
        elif name == "linear":
            return self._linear(first, given.get("weight"), given.get("bias"))
        elif name in _PRODUCTS:
            return self._product(*list(given.values())[:2])
        elif name == "addmm":
            return self._addmm(given)
        elif isinstance(first, Weight) and name in _TRANSPOSES:
            return self._transposed(name, first, [v for v in given.values() if v is not first])
        elif name == "add" and any(isinstance(v, Weight) for v in given.values()):
            return self._biased(given)
        return self._elementwise(name, operator, given)

    def activated(self, value: NeuronValues, activation: Activation) -> NeuronValues:
        """Apply an activation itself to the value of the chain."""
        try:
            result = elementwise.applied(activation, value.expression)
        except elementwise.TooLong as error:
            raise NoChain(str(error)) from None
        return replace(value, expression=result, operators=(*value.operators, str(activation)))

    def finish(self, value: Any) -> list[ChainLayer]:
        """Return the maps of a chain whose output this is."""
        if not isinstance(value, NeuronValues):
            raise NoChain("returns something else than the end of the chain")
        if not value.maps:
            raise NoChain("is reached without any linear layer")
        return list(self._closed(value))

    # -- layers -----------------------------------------------------------------------------------

    def _linear(self, value: Any, weight: Any, bias: Any) -> NeuronValues:
        for key, argument in (("weight", weight), ("bias", bias)):
            if argument is not None and not isinstance(argument, Weight):
                raise NoChain(f"has a {key} that is computed and is no parameter")
        if not isinstance(value, NeuronValues):
            raise NoChain("does not map the value of the chain by a parameter")
        assert isinstance(weight, Weight)
        if weight.transposed or len(self.shapes[weight.name]) != 2:
            raise NoChain("does not map by a parameter as it is stored, (out, in)")
        bias_name = None if bias is None else bias.name
        self._check_unused(value, weight.name, bias_name)
        affine = ChainLayer(weight.name, bias_name, Activation("identity"))
        return NeuronValues((*self._closed(value), affine))

    def _product(self, value: Any, weight: Any) -> NeuronValues:
        if not isinstance(value, NeuronValues) or not isinstance(weight, Weight):
            raise NoChain("does not map the value of the chain by a parameter")
        return self._linear(value, replace(weight, transposed=not weight.transposed), None)

    def _addmm(self, given: Mapping[str, Any]) -> NeuronValues:
        if given.get("alpha", 1) != 1 or given.get("beta", 1) != 1:
            raise NoChain("scales what it adds")
        product = self._product(given.get("mat1"), given.get("mat2"))
        return self._biased({"self": product, "other": next(iter(given.values()))})

    def _biased(self, given: Mapping[str, Any]) -> NeuronValues:
        values = [v for v in given.values() if isinstance(v, NeuronValues)]
        biases = [v for v in given.values() if isinstance(v, Weight)]
        if len(values) != 1 or len(biases) != 1 or given.get("alpha", 1) != 1:
            raise NoChain("adds something else than a bias to a value of the chain")
        value, bias = values[0], biases[0]
        last = value.maps[-1] if value.maps else None
        if last is None or last.bias is not None or value.expression != NEURON or value.operators:
            raise NoChain(f"adds the parameter {bias.name!r} where no layer has its bias")
        if self.shapes[bias.name] != self.shapes[last.weight][:1] or bias.transposed:
            raise NoChain(f"adds the parameter {bias.name!r}, which has another shape than a bias")
        self._check_unused(value, bias.name)
        return NeuronValues((*value.maps[:-1], replace(last, bias=bias.name)))

    def _transposed(self, name: str, weight: Weight, places: Sequence[Any]) -> Weight:
        flat = [p for place in places for p in (place if isinstance(place, Sequence) else [place])]
        is_matrix = len(self.shapes[weight.name]) == 2
        order = [p % 2 for p in flat if isinstance(p, int) and -2 <= p < 2]
        if not is_matrix or len(order) < len(flat) or sorted(order) not in ([], [0, 1]):
            raise NoChain("transposes something else than a matrix")
        if name == "permute" and order == [0, 1]:
            return weight
        return replace(weight, transposed=not weight.transposed)

    def _check_unused(self, value: NeuronValues, *names: str | None) -> None:
        used = {name for affine in value.maps for name in (affine.weight, affine.bias)} - {None}
        if len({*names}) < len(names) or not used.isdisjoint(names):
            raise NoChain("uses the parameters of a layer a second time")

    # -- what is between layers -------------------------------------------------------------------

    def _keeps(self, name: str, given: Mapping[str, Any]) -> bool:
        """Check that a dropout drops nothing."""
        default = name not in ("alpha_dropout", "feature_alpha_dropout")  # of nn.functional
        if given.get("training", given.get("train", default)) and given.get("p", 0.5) != 0:
            raise NoChain("drops entries at random in evaluation mode too")
        return True

    def _elementwise(self, name: str, operator: str, given: Mapping[str, Any]) -> ChainValue:
        values = [value for value in given.values() if isinstance(value, NeuronValues)]
        for value in given.values():
            if isinstance(value, Weight):
                raise NoChain(
                    f"takes the parameter {value.name!r}, which is neither the weight nor the bias "
                    "of a layer there, and not the w0 of a sine, which is a number"
                )
        if not values:
            raise NoChain("does not take the value of the chain")
        if any(value.maps != values[0].maps for value in values):
            raise NoChain("joins the chain with an earlier value of it")
        operands = {k: v.expression if isinstance(v, NeuronValues) else v for k, v in given.items()}
        try:
            result = elementwise.apply(name, operands)
        except elementwise.TooLong as error:
            raise NoChain(str(error)) from None
        if result is None:
            raise NoChain("is no layer or activation of a chain")
        made = dict.fromkeys([*(o for value in values for o in value.operators), operator])
        return NeuronValues(values[0].maps, result, tuple(made))

    def _closed(self, value: NeuronValues) -> tuple[ChainLayer, ...]:
        """The maps, the last with its activation."""
        activation = elementwise.recognise(value.expression)
        if not value.maps:
            if activation != Activation("identity"):
                raise NoChain("is applied to the input, before any layer", made_before=True)
            return ()
        if activation is None:
            if self.exact:
                raise NoChain(
                    "makes of a layer's neurons what is not exactly an activation that graphs "
                    f"know ({', '.join(value.operators)})", made_before=True,
                )
            activation = Activation("other", operator=", ".join(value.operators))
        return (*value.maps[:-1], replace(value.maps[-1], activation=activation))
