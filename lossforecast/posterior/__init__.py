"""The posterior of the laws given the evidence."""

from lossforecast.posterior.fit import fit
from lossforecast.posterior.parameters import parameters_of
from lossforecast.posterior.posterior import CoursePredictor, Posterior
from lossforecast.posterior.transfer import PastRunTransfer

__all__ = ["CoursePredictor", "PastRunTransfer", "Posterior", "fit", "parameters_of"]
