"""`report`: what the run folder shows to those who read it."""

from job.spec.section import Section


class ReportSpec(Section):
    """What the report and the run folder hold."""

    images: bool = True
    """False leaves out every photograph and every mask picture; figures and names of images stay
    (docs/privacy.md)."""
