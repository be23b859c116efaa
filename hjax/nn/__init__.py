"""Equinox layers whose forward pass is the solve: they call the reductions and nothing else."""

from . import activations as activations
from ._attend import AttentionState as AttentionState
from ._classifier import Classifier as Classifier
from ._compose import compose as compose
from ._conv_lse import ConvLSE as ConvLSE
from ._description import Description as Description
from ._encoder_decoder import EncoderDecoder as EncoderDecoder
from ._evolution import Evolution as Evolution
from ._evolution import Flow as Flow
from ._gate import LSEGate as LSEGate
from ._gauge import data_scale_gauge as data_scale_gauge
from ._gauge import generalization_gauge as generalization_gauge
from ._gauge import information_gauge as information_gauge
from ._hopfield import HopfieldLayer as HopfieldLayer
from ._kernel_regressor import KernelRegressor as KernelRegressor
from ._kv_cache import KVCache as KVCache
from ._l2_attention import L2Attention as L2Attention
from ._lse_layer import LSELayer as LSELayer
from ._lse_network import LSENetwork as LSENetwork
from ._max_plus import MaxPlusLayer as MaxPlusLayer
from ._multihead_attention import MultiheadAttention as MultiheadAttention
from ._resnet import ResNet as ResNet
from ._transformer import Transformer as Transformer
from ._transformer_block import TransformerBlock as TransformerBlock
