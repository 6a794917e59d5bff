"""Published figures of Amazon Beauty under leave-one-out, over the whole catalog. None of them was rerun here."""

from dataclasses import dataclass

CALCULATED = "rerun by the authors of eSASRec"  # README of github.com/blondered/transformer_benchmark (arXiv 2508.06450)
REPORTED = "its paper, as quoted there"
COPIED = "second hand"  # copied from tables of other papers and from READMEs of reruns; the paper's own table was not seen


@dataclass(frozen=True)
class PublishedFigure:
    """One model's figures as somebody published them."""

    model: str
    recall_10: float
    ndcg_10: float
    source: str


PUBLISHED = (
    PublishedFigure("SASRec", 0.0605, 0.0318, REPORTED),
    PublishedFigure("S3-Rec", 0.0647, 0.0327, REPORTED),
    PublishedFigure("TIGER", 0.0648, 0.0384, REPORTED),
    PublishedFigure("CL4SRec", 0.0681, 0.0299, REPORTED),
    PublishedFigure("HSTU", 0.0704, 0.0389, REPORTED),
    PublishedFigure("ActionPiece", 0.0775, 0.0424, REPORTED),
    PublishedFigure("LSAN", 0.0785, 0.0410, REPORTED),
    PublishedFigure("FuXi-α", 0.0809, 0.0451, CALCULATED),
    PublishedFigure("MaskGR", 0.0815, 0.0436, COPIED),
    PublishedFigure("DiffGRM", 0.0832, 0.0476, COPIED),
    PublishedFigure("DuoRec", 0.0845, 0.0443, REPORTED),
    PublishedFigure("HSTU with full cross-entropy", 0.0859, 0.0441, COPIED),
    PublishedFigure("SASRec with sampled softmax", 0.0921, 0.0531, CALCULATED),
    PublishedFigure("OneRec-SFT 1.7B", 0.0925, 0.0501, COPIED),
    PublishedFigure("BARGE", 0.0927, 0.0547, COPIED),
    PublishedFigure("eSASRec", 0.0928, 0.0523, CALCULATED),
)
