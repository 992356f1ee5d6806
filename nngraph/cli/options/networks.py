"""Options of the commands on single networks, and of ``validate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from nngraph.cli.options.deriving import Argument, Each
from nngraph.cli.options.shared import Hidden, Reports, Runnable, Specified, Threads, Traced


@dataclass(frozen=True, kw_only=True)
class Convert(Hidden, Runnable, Reports):
    """Turn a network, or the weights of one, into a graph file.

    It holds the same tensors, bit for bit, with the architecture beside them. Without more, a state
    dict is that of an MLP. Exit code 1, and no file, if --verify fails or proves nothing: a mistake
    could hide.

    Args:
        file: state dict in .safetensors, .pt or .pth, of which no code is run; an .onnx file, or
            package.module:factory, a module or a function without arguments that returns one: this
            imports and runs that code, which is why it is asked for by name
        out: graph file to write, ending in .safetensors
        allow_nonfinite: let NaN and infinity among the weights pass
    """

    file: Argument[str]
    out: Argument[str]
    allow_nonfinite: bool = False


@dataclass(frozen=True, kw_only=True)
class Inspect(Hidden, Runnable, Reports):
    """Describe a network or a zoo.

    Of weights (a state dict or a graph file) or a zoo: architecture, sizes, the group of neuron
    relabellings that leave its function alone, and statistics of each tensor. Of a network that can
    be run: its neuron groups, the spaces that may be relabelled and the axes that each ties, the
    blocks of its edges, and what lost its freedom, and why. Exit code 0 if --verify holds, 1 if it
    fails or the symmetry is not proven, since a mistake could hide; --json has the status of each
    space. Example: nngraph inspect model.onnx --verify

    Args:
        file: state dict, graph file, folder of a zoo; an .onnx file, or package.module:factory, a
            module or a function without arguments that returns one: this imports and runs that
            code, which is why it is asked for by name
        maximal: as --verify, and search for symmetry that was missed; for small networks
    """

    file: Argument[str]
    maximal: bool = False


@dataclass(frozen=True, kw_only=True)
class Spec(Traced, Reports):
    """Derive once what each axis of a network's tensors counts, and keep it as JSON.

    match, merge, diff and prune take the file in place of the module (--spec), for checkpoints of
    that architecture. Exit code 1, and no file, if --verify fails or proves nothing. Example:
    nngraph spec torchvision.models:resnet18 resnet18.json --inputs 1x3x64x64

    Args:
        network: package.module:factory, a module or a function without arguments that returns one:
            this imports and runs that code, which is why it is asked for by name; or an .onnx file
        out: JSON file to write
        maps: scales, signs, orthogonal and linear maps of neurons too, beside relabellings
    """

    network: Argument[str]
    out: Argument[str]
    maps: bool = False


@dataclass(frozen=True, kw_only=True)
class Validate(Hidden, Threads, Reports):
    """Prove the library on an architecture.

    Which elements of the DWS basis, the complete set of linear maps on weights that commute with
    relabelling neurons, each linear layer spans, block by block; and the largest error of every
    layer and model under random relabellings, in float64 and float32, on each device present. Exit
    code 1 if anything falls short of what it claims. Example: nngraph validate 2 32 32 3

    With --group: which of these maps commute with signs, or positive scales, of the neurons too,
    counted by formula and by brute force, and which models do not see such maps.

    Args:
        network: layer sizes, inputs first; or a state dict, a graph file or the folder of a zoo,
            whose architecture is taken
        activation: of the hidden layers: one name, or one per hidden layer: relu, leaky_relu, elu,
            gelu, gelu_tanh, silu, sigmoid, softplus, tanh, sine, identity, or another of
            nngraph.graph.ACTIVATIONS (default: sine with w0 = 30 for layer sizes; relu for a state
            dict)
        figure: draw the basis as matrices, of the same network at most 3 wide, to a .png, .pdf or
            .svg file
        group: sign or positive_scale of the neurons whose activation allows it (for layer sizes,
            relu is the default activation of positive_scale)
        seed: seed of weights and relabellings
    """

    network: Argument[list[str]]
    group: Literal["sign", "positive_scale"] | None = None
    figure: Annotated[str | None, "FILE"] = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Match(Hidden, Specified, Threads, Reports):
    """Find the relabelling of a second network's neurons that brings it closest to a first.

    Tells how far apart the two are before and after, and, with --data, the barrier of the loss on
    the straight path between them. Checkpoints of any architecture are matched tensor by tensor,
    by their weights, with the spec of a --module or of a file (--spec); without either, graph files
    and MLPs by any method. Example: nngraph match one.safetensors other.safetensors --spec
    resnet18.json --out aligned.safetensors

    Args:
        first: checkpoint or graph file; stays as it is
        second: checkpoint or graph file; is relabelled
        method: weights: by assignment, space after space; activations: correlations on the inputs
            of --data; sinkhorn: descent on soft permutations, on the loss midway with --data;
            embeddings: states that the model of --run gives the neurons
        out: write the second network, relabelled: with a spec a checkpoint under the names that it
            had, a file ending in .safetensors or a folder; a graph file otherwise
        data: safetensors file with inputs [P, d] and answers: classes [P] (whole numbers), or
            numbers [P, outputs]
        run: trained model, for embeddings
        signs: match neurons of odd activations, such as tanh and sine, up to their sign (weights,
            activations)
        canonicalise: bring both networks to canonical scales (ReLU), phases (sine) and signs (tanh)
            first
        starts: starts of the descent on weights; the best is kept
        steps: steps of the descent of sinkhorn
        architecture: of the networks whose weights the files hold: what inspect or convert wrote
            with --json
        figure: draw the matching, and the path with --data, to a .png, .pdf or .svg file
        seed: seed of the random starts
    """

    first: Argument[str]
    second: Argument[str]
    method: Literal["weights", "activations", "sinkhorn", "embeddings"] = "weights"
    out: Annotated[str | None, "FILE"] = None
    data: Annotated[str | None, "FILE"] = None
    run: Annotated[str | None, "FOLDER"] = None
    signs: bool = False
    canonicalise: bool = False
    starts: int = 3
    steps: int = 200
    architecture: Annotated[str | None, "FILE.json"] = None
    figure: Annotated[str | None, "FILE"] = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Merge(Specified, Threads, Reports):
    """Match networks and add them up, tensor by tensor, into one checkpoint.

    All are matched to the first, several so that all fit one another; then each tensor is the
    average, or what --weights and --base say, in the dtype, under the names and in as many files as
    in the first. Tells how well each space was matched. Tensors that are no floating-point numbers,
    or not in the spec, are those of the first network. Example: nngraph merge one.safetensors
    other.safetensors --spec resnet18.json --out merged.safetensors

    Args:
        networks: checkpoints of one architecture
        out: file ending in .safetensors to write, or a folder to make
        weights: of each network: shares, which are divided by their sum (default: equal ones); with
            --base factors of the differences (default: 1 / number of networks)
        base: checkpoint that the networks were made from; their differences from it are added to it
            (task vectors), and they are matched to it
        only: patterns such as layer3.* of the tensors to merge; the rest is that of the first
            network, or of the base
        data: safetensors file with inputs [P, ...], for networks of a --module: its batch norms
            measure their statistics on them anew; with answers too, classes [P] (whole numbers) or
            numbers [P, ...], the loss of the merged network, and of two networks along the straight
            path between them
        starts: starts of the descent on weights; the best is kept
        seed: seed of the random starts
    """

    networks: Argument[list[str]]
    out: Annotated[str, "PATH"]
    weights: list[float] | None = None
    base: Annotated[str | None, "FILE"] = None
    only: list[str] | None = None
    data: Annotated[str | None, "FILE"] = None
    starts: int = 3
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Prune(Specified, Threads, Reports):
    """Remove neurons, channels, heads and groups from every tensor of a network that counts them.

    With --module it is proven on the network, in float64, that neurons removed and neurons masked
    give the same outputs; spaces for which they do not, as those that a layer norm takes a mean
    over, stay whole and are told. Inputs and outputs of the network always stay. The file that is
    written has the names that the checkpoint had, and tells the neurons that stay and the sizes of
    the modules as JSON; nngraph.pruning.load_pruned(module, file) makes a module of the user's own
    smaller in place. Example: nngraph prune model.safetensors --module package.module:factory
    --inputs 1x3x224x224 --keep 0.5 --out pruned.safetensors

    Args:
        file: checkpoint: a file or a folder
        keep: share of the neurons of each space that stay, such as 0.5, or of some by name, such as
            layer4.*=0.3; once for each
        parameters: in place of --keep, the share of all parameters that may stay, or a number of
            them above 1; neurons of all spaces are ordered together
        flops: in place of --keep, the share of the floating-point operations of a forward on the
            inputs that may stay, or a number of them above 1
        scores: by which neurons stay: norm: of all parameters that count a neuron; batch_norm: size
            of the scale of its batch norm; importance: first-order, on --data; or a file, JSON or
            safetensors, of scores by the names of the spaces
        data: safetensors file with inputs and answers, for importance: classes (whole numbers), or
            numbers
        exclude: space that stays whole, or a pattern of names; once for each
        anyway: space that is pruned though removing is not masking there; once for each
        out: write the network: a file ending in .safetensors or a folder
    """

    file: Argument[str]
    keep: Annotated[Each[str], "SHARE|SPACE=SHARE"] = None
    parameters: float | None = None
    flops: float | None = None
    scores: Annotated[str, "norm|batch_norm|importance|FILE"] = "norm"
    data: Annotated[str | None, "FILE"] = None
    exclude: Annotated[Each[str], "SPACE"] = None
    anyway: Annotated[Each[str], "SPACE"] = None
    out: Annotated[str | None, "FILE"] = None


@dataclass(frozen=True, kw_only=True)
class Diff(Specified, Threads, Reports):
    """Tell what two networks are to each other: one function, made from one another, or neither.

    The second is matched to the first, and what is left is told tensor by tensor. They are equal,
    relabelled (equal bit by bit once neurons stand in one order), rounded (equal up to rounding),
    related (one made from the other, or both from a third: a weight matrix is the same in both, or
    the cosine of all parameters is at least 0.7), or unrelated. With more networks than two the
    first is told as a mixture of the others, with the coefficients of least squares. Exit code 0
    for one function, or a mixture that leaves no more than rounding; 1 otherwise. Example: nngraph
    diff one.safetensors other.safetensors --spec resnet18.json

    Args:
        first: checkpoint
        others: checkpoints of the same architecture: one to compare, or several to mix
        maps: bring both networks to one form under scales, signs and linear maps of neurons first;
            with a --module, or a --spec that was derived with them
        starts: starts of the descent on weights; the best is kept
        seed: seed of the random starts
    """

    first: Argument[str]
    others: Argument[list[str]]
    maps: bool = False
    starts: int = 3
    seed: int = 0
