"""Options of the commands ``nngraph zoo ...``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from nngraph.cli.options.deriving import Argument, Each
from nngraph.cli.options.shared import Hidden, ProgressOption, Reports, Threads
from nngraph.settings import FitZooSettings, ImportSettings, TrainZooSettings


@dataclass(frozen=True, kw_only=True)
class ZooFit(FitZooSettings, Threads, ProgressOption, Reports):
    """Fit a network of pixel coordinates to each view of each image and store them as a zoo.

    The networks are SIRENs, or ReLU networks on Fourier features. An interrupted fit goes on when
    the same command is given again; under torchrun the processes share the work. Example: nngraph
    zoo fit --data mnist DIR --count 10000

    Args:
        out: folder of the zoo, made if it is not there; give it before --data (default: zoos/NAME)
        data: the images: 'digits' (part of scikit-learn), 'mnist DIR', 'fashion-mnist DIR', or
            another name with a folder of such IDX files, gzipped or not, or 'png DIR': PNG images
            in folders named like their classes, or with a table labels.csv (file,label)
        part: which files of an IDX folder: train-... or t10k-...
        threads: threads to compute on (default: all cores there are; the result does not depend on
            it)
    """

    out: Argument[str | None] = None
    data: Annotated[list[str], "NAME", "DIR"] = field(default_factory=lambda: ["digits"])
    part: Literal["train", "test"] = "train"
    most_threads: ClassVar[int | None] = None


@dataclass(frozen=True, kw_only=True)
class ZooTrain(TrainZooSettings, Threads, ProgressOption, Reports):
    """Train a population of small image classifiers and store states along every run as a zoo.

    Accuracies, losses and hyper-parameters are stored with them. Recipes: 'small-cnn', one CNN with
    varied hyper-parameters; 'small-mlp', the same with an MLP; 'wild', varied MLPs and CNNs;
    'lora', adapters of one transformer on varied classes and styles of images. An interrupted
    command goes on when it is given again; under torchrun the processes share the work.
    Example: nngraph zoo train --recipe wild --data mnist DIR --count 2000

    Args:
        out: folder of the zoo, made if it is not there; give it before --data (default:
            zoos/RECIPE-NAME)
        data: the images, as of zoo fit; a fifth of the digits, or of a folder of PNG images, is for
            testing
        threads: threads to compute on (default: all cores there are; the result does not depend on
            it)
    """

    out: Argument[str | None] = None
    data: Annotated[list[str], "NAME", "DIR"] = field(default_factory=lambda: ["digits"])
    most_threads: ClassVar[int | None] = None


@dataclass(frozen=True, kw_only=True)
class ZooInfo(Reports):
    """Say what is in a zoo: sizes, splits, facts, how it was made.

    Args:
        path: folder of the zoo
        verify: read everything: checksums, finite weights, no image in two splits
    """

    path: Argument[str]
    verify: bool = False


@dataclass(frozen=True, kw_only=True)
class ZooVerify(Reports):
    """Read all of a zoo, and name everything that is wrong; exit code 1 if something is.

    Checksums, finite weights, no group of networks in two splits, no networks twice.

    Args:
        path: folder of the zoo
    """

    path: Argument[str]


@dataclass(frozen=True, kw_only=True)
class ZooMerge(Reports):
    """Merge zoos of the same facts into a new one.

    Refused if a network would be there twice, or one group of networks (all fits of an image, all
    checkpoints of a run) in two splits.

    Args:
        out: folder of the new zoo
        zoos: folders of the zoos to merge
    """

    out: Argument[str]
    zoos: Argument[list[str]]


@dataclass(frozen=True, kw_only=True)
class ZooFilter(Reports):
    """Write the networks of a zoo that meet all conditions as a new zoo; splits and facts stay.

    Example: nngraph zoo filter zoos/mnist zoos/good --where psnr>=30 label=3

    Args:
        zoo: folder of the zoo
        out: folder of the new zoo
        where: fact, operator (>=, <=, !=, =, >, <) and value, in quotes for the shell: 'psnr>=30',
            'split=train'; beside the facts of the zoo there are architecture, its index, and
            parameters, how many a network has
        shard_size: networks per file
    """

    zoo: Argument[str]
    out: Argument[str]
    where: Annotated[list[str], "CONDITION"]
    shard_size: int = 1024


@dataclass(frozen=True, kw_only=True)
class ZooExport(Reports):
    """Write a zoo for other programs.

    As a data set of the Open Graph Benchmark, which OGB's own reader reads; as one of Hugging Face:
    safetensors, a table of facts and a data card; or as a file of torch.save for each network, with
    a table. Example: nngraph zoo export zoos/mnist mnist-inrs --format huggingface

    Args:
        zoo: folder of the zoo
        out: folder to make; its name is the data set's
        format: what is written; zoo import reads the latter two
        table: of huggingface, the kind of the table of facts; parquet needs pyarrow
        target: of ogb, the fact that is to be predicted (default: that of the zoo)
        metric: of ogb: acc, kendall, r2 or mse (default: acc for classes, kendall for numbers)
    """

    zoo: Argument[str]
    out: Argument[str]
    format: Literal["ogb", "huggingface", "checkpoints"] = "ogb"
    table: Literal["parquet", "jsonl"] = "parquet"
    target: str | None = None
    metric: str | None = None


@dataclass(frozen=True, kw_only=True)
class ZooImport(ImportSettings, Hidden, Reports):
    r"""Make a zoo of networks in other files, and of what is known of them.

    They are in a folder, a network in each file; in one file, stacked; or in a public collection's
    own layout. No code in them is run. Example: nngraph zoo import checkpoints zoos/mine --facts
    results.csv --module my_models:make --inputs 1x3x32x32 --target test_accuracy

    Args:
        source: the folder or file; hf://owner/name[/path][@revision]; or what zoo export wrote
        out: folder of the zoo
        architecture: of the networks: what inspect or convert wrote with --json; several, each as
            PATTERN=FILE.json, by regular expressions for their paths (default: MLPs, by shapes)
        module: package.module:factory in place of an architecture: returns the module of a network,
            given the columns that its parameters name (width, depth, ...); several, each as
            PATTERN=package.module:factory. This imports and runs that code
        inputs: an example input of the modules, such as 1x3x32x32; once for each input
    """

    source: Argument[str]
    out: Argument[str]
    architecture: Annotated[Each[str], "FILE.json"] = None
    module: Annotated[Each[str], "PACKAGE.MODULE:FACTORY"] = None
    inputs: Annotated[Each[str], "SHAPE[:DTYPE[:BELOW]]"] = None


@dataclass(frozen=True, kw_only=True)
class ZooShow(Reports):
    """Draw a zoo: the images that its networks represent, and histograms of its weights, as PNG.

    Args:
        path: folder of the zoo
        out: folder for contact-sheet.png and weights.png (default: here)
        count: networks on the contact sheet
        where: draw networks that meet conditions, as of zoo filter
        architecture: index of the architecture of the histograms
    """

    path: Argument[str]
    out: str | None = None
    count: int = 64
    where: Annotated[list[str], "CONDITION"] = field(default_factory=list)
    architecture: int = 0
