"""What to say about a name that is not known: the close ones, or all of them."""

import difflib

# Names are compared letter by letter, so that a long one would take long.
_MAX_COMPARED = 200
_MAX_LISTED = 30


def close_names(name, known, *, count=3, cutoff=0.6):
    """The known names most like `name`, without regard to case, the best first.

    A name behind a folder (`imagenet21k/ViT-B_16`) is as like as what stands behind the last slash.

    Args:
        name: What was asked for, anything.
        known: Iterable of names.
        count: How many at most.
        cutoff: In [0, 1]; how like they must be.

    >>> close_names("evalaute", ["evaluate", "export"])
    ['evaluate']
    >>> close_names("vit-b_16", ["sam/ViT-B_16", "sam/ViT-B_32", "R50"], count=1)
    ['sam/ViT-B_16']
    """
    name = str(name)[:_MAX_COMPARED].casefold()
    matcher, scored = difflib.SequenceMatcher(), []
    matcher.set_seq2(name)
    for index, candidate in enumerate(known):
        text = str(candidate).casefold()
        scores = []
        for part in {text, text.rpartition("/")[2]}:
            matcher.set_seq1(part)
            if matcher.real_quick_ratio() >= cutoff and matcher.quick_ratio() >= cutoff:
                scores.append(matcher.ratio())
        if scores and max(scores) >= cutoff:
            scored.append((-max(scores), index, candidate))
    return [candidate for *_, candidate in sorted(scored)[:count]]


def did_you_mean(name, known, *, count=3, cutoff=0.6):
    """A sentence that names the known names close to `name`, or all of them where few are known.

    >>> did_you_mean("evalaute", ["evaluate", "export"])
    'did you mean evaluate?'
    >>> did_you_mean("x", ["evaluate", "export"])
    'one of evaluate, export is expected'
    """
    known = [str(candidate) for candidate in known]
    close = close_names(name, known, count=count, cutoff=cutoff)
    if close:
        return f"did you mean {' or '.join(close)}?"
    listed = known if len(known) <= _MAX_LISTED else [*known[:_MAX_LISTED], "..."]
    return f"one of {', '.join(listed)} is expected"
