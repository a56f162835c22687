"""The term sheet: what an instrument promises, in plain English, generated from its terms, every one of them.

It exists because people sign what they can read. Laws: every field of the terms is spoken of by some sentence, and no
two terms give the same sheet; every amount in a worked example is what `scheduler.core.settlement` makes of a record.

    sheet        sentences with the fields that they speak of
    wording      exact quantities, lengths, instants and money
    delivered surely paid    the sentences, by what they are about
    examples     what is paid if this or that happens to one lot
    writing      text, Markdown, JSON
"""

from scheduler.termsheet.sheet import TermSheet, term_sheet
from scheduler.termsheet.writing import document, markdown, text

__all__ = ["TermSheet", "document", "markdown", "term_sheet", "text"]
