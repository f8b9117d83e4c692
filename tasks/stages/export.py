"""export: the final student in Paddle's inference format, checked against the network.

Files: inference.json, inference.pdiparams, sidecar.json (ppcls_core.inference.exported),
student.pdparams.
"""

from data_catalog.base.files import write_bytes
from ppcls_core.inference.export import export
from ppcls_core.inference.sidecar import FILES, Sidecar
from tasks.run.stage import Outcome, Work
from tasks.stages.training import student_of


def run(work: Work) -> Outcome:
    """Export the student as the fix stage left it."""
    student, classes = student_of(work, "fix"), work.images("data/train.arrow").classes
    sidecar = Sidecar.of(work.recipe.student, classes, work.recipe.fix.preprocess)
    deviation = export(student, sidecar, work.directory)
    weights = work.inputs["fix"].path("model.pdparams").read_bytes()
    write_bytes(work.path("student.pdparams"), weights)
    return Outcome(files=[*FILES, "student.pdparams"], metrics={"deviation": deviation})
