"""What traces of memory hold, counted by hand."""


def peak_bytes(*segments, start=0):
    """The most that is requested at once."""
    events = [event for segment in segments for event in segment]
    current = peak = start
    live = {}
    for event in events:
        if event.num_bytes is None:
            current -= live.pop(event.key, 0)
        else:
            live[event.key] = event.num_bytes
            current += event.num_bytes
            peak = max(peak, current)
    return peak


def left_bytes(segment, category):
    """What is left of a category after a segment."""
    live = {}
    for event in segment:
        if event.num_bytes is None:
            live.pop(event.key, None)
        else:
            live[event.key] = event
    return sum(event.num_bytes for event in live.values() if event.category is category)
