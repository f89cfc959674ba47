"""What attempts that were killed have reserved on the nodes, given back."""

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.util.placement_group import PlacementGroup, remove_placement_group


def free_reservations() -> None:
    """Remove the placement groups of this job whose creators are dead: their workers are gone, and nobody else could
    have the cores.

    Ray keeps such a group until the job ends. Ray Train has an actor that removes it, but only if the workers had
    started, and it asks the dashboard whether the controller lives, which may not answer in time on a busy machine.
    """
    job = ray.get_runtime_context().get_job_id()
    for data in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(data)
        removed = group.state == PlacementGroupTableData.REMOVED
        if group.creator_actor_dead and group.creator_job_id.hex() == job and not removed:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
