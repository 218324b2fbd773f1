from resact.cache.store import open_store as open_store
from resact.notebook import evaluate as evaluate
from resact.notebook import load_run as load_run
from resact.notebook import predict as predict
from resact.notebook import stream as stream
from resact.train.clips.dataset import ClipDataset as ClipDataset
from resact.train.clips.geometry import ClipGeometry as ClipGeometry
from resact.train.clips.measurement import measure_normalisation as measure_normalisation
from resact.train.clips.normalisation import Normalisation as Normalisation
from resact.train.clips.residual import residual_frames as residual_frames
from resact.train.clips.sampling import TestPlan as TestPlan
from resact.train.clips.sampling import TrainPlan as TrainPlan
from resact.train.clips.stream import ClipStream as ClipStream
from resact.train.networks.cost import count_cost as count_cost
from resact.train.networks.models import build_model as build_model
from resact.train.runs.training.train import train as train

__version__: str
