"""Equinox layers whose forward pass is the solve: they call the reductions and nothing else."""

from ._description import Description as Description
from ._gauge import data_scale_gauge as data_scale_gauge
from ._gauge import generalization_gauge as generalization_gauge
from ._gauge import information_gauge as information_gauge
from ._lse_layer import LSELayer as LSELayer
