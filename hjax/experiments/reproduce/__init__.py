"""The paper's experiments A to G: trained anew, measured against what the theory predicts, drawn.

An experiment is one file here with one `Experiment` in it: parameters, parts (each a compiled program over all seeds
and temperatures of one width), the rows of a table, what must come out, and a picture. It says nothing of files:
`run` keeps finished parts on the disk, resumes, and writes results whole or not at all.

To add one, write its file and its line in `EXPERIMENTS`.
"""

from ._experiment import Criterion as Criterion
from ._experiment import Experiment as Experiment
from ._experiment import Results as Results
from ._experiment import in_memory as in_memory
from ._run import EXPERIMENTS as EXPERIMENTS
from ._run import Report as Report
from ._run import run as run
from ._run import select as select
