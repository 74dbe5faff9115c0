"""The profile: every number that belongs to a model, a data set or a machine, read strictly from
YAML.

An unknown key, a missing key, a wrong type, a value out of its range or a key that stands twice is
an error that names file, line, key, value and what is allowed. Notebook parameters are the axes of
a study (profile, scenario, method, seed ...) and are not here.
"""

from pulse_lib.profile.load import Override as Override
from pulse_lib.profile.load import line_of as line_of
from pulse_lib.profile.load import load_profile as load_profile
from pulse_lib.profile.load import overridden as overridden
from pulse_lib.profile.load import profile_of as profile_of
from pulse_lib.profile.load import profile_path as profile_path
from pulse_lib.profile.load import tuned_path as tuned_path
from pulse_lib.profile.said import check_type as check_type
from pulse_lib.profile.settings import DRAWN as DRAWN
from pulse_lib.profile.settings import OWN as OWN
from pulse_lib.profile.settings import TRAINED_PARTS as TRAINED_PARTS
from pulse_lib.profile.settings import TWINS as TWINS
from pulse_lib.profile.settings import AnswerForm as AnswerForm
from pulse_lib.profile.settings import BenchmarkSettings as BenchmarkSettings
from pulse_lib.profile.settings import DataSettings as DataSettings
from pulse_lib.profile.settings import EvaluateSettings as EvaluateSettings
from pulse_lib.profile.settings import ExtractionRules as ExtractionRules
from pulse_lib.profile.settings import FinetuneSettings as FinetuneSettings
from pulse_lib.profile.settings import GeneralSettings as GeneralSettings
from pulse_lib.profile.settings import GeneralSource as GeneralSource
from pulse_lib.profile.settings import ImageAspect as ImageAspect
from pulse_lib.profile.settings import Load as Load
from pulse_lib.profile.settings import MatchedBy as MatchedBy
from pulse_lib.profile.settings import ModelSettings as ModelSettings
from pulse_lib.profile.settings import Optimizer as Optimizer
from pulse_lib.profile.settings import PeopleSettings as PeopleSettings
from pulse_lib.profile.settings import PeopleSource as PeopleSource
from pulse_lib.profile.settings import ProbeSettings as ProbeSettings
from pulse_lib.profile.settings import Profile as Profile
from pulse_lib.profile.settings import PromptName as PromptName
from pulse_lib.profile.settings import Reference as Reference
from pulse_lib.profile.settings import RetainSource as RetainSource
from pulse_lib.profile.settings import SupervisedTokens as SupervisedTokens
from pulse_lib.profile.settings import TrainedPart as TrainedPart
from pulse_lib.profile.settings import UnlearnSettings as UnlearnSettings
from pulse_lib.profile.tuned import SCENARIOS as SCENARIOS
from pulse_lib.profile.tuned import SEQUENTIAL as SEQUENTIAL
from pulse_lib.profile.tuned import Scenario as Scenario
from pulse_lib.profile.tuned import tuned_for as tuned_for
