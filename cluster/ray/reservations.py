"""Resources that killed attempts have reserved on the nodes, and their release."""

from ray.util.placement_group import remove_placement_group

from ...training.ray.internals import orphaned_placement_groups


def free_reservations() -> None:
    """Remove the placement groups of this job whose creators are dead: their workers are gone, and until then nobody
    else can use the cores.

    Ray keeps such a group until the job ends. Ray Train has an actor that removes it, but only if the workers had
    started, and it asks the dashboard whether the controller is alive, which may not answer in time on a busy machine.
    """
    for group in orphaned_placement_groups():
        remove_placement_group(group)
