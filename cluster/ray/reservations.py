"""Release resources that killed attempts have reserved on the nodes."""

from ray.util.placement_group import remove_placement_group

from ...training.ray.internals import orphaned_placement_groups


def free_reservations() -> None:
    """Remove this job's placement groups whose creators are dead: their workers are gone, but the cores stay reserved.

    Ray keeps such a group until the job ends. Ray Train has an actor that removes it, but only if the workers had
    started; it also asks the dashboard whether the controller is alive, which may time out on a busy machine.
    """
    for group in orphaned_placement_groups():
        remove_placement_group(group)
