# What RuntimeDefault means: a container does with its own files, network and processes as it
# likes, and reaches none of the switches by which the node itself is steered.
profile wherry-default flags=(attach_disconnected,mediate_deleted) {
  capability,
  file,
  network,
  umount,

  # Whoever runs containers may end them; they may signal and trace each other.
  signal (receive) peer=unconfined,
  signal (receive) peer=wrun,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (send, receive) peer=wherry-default,
  ptrace (read, readby, trace, tracedby) peer=wherry-default,

  # New mounts could uncover what is hidden.
  deny mount,

  # Of /proc/sys only what belongs to a namespace of the pod: kernel.shm*, kernel.msg*, kernel.sem,
  # net and fs.mqueue.
  deny /proc/sys/[^fkn]** w,
  deny /proc/sys/f[^s]** w,
  deny /proc/sys/fs/[^m]** w,
  deny /proc/sys/fs/m[^q]** w,
  deny /proc/sys/k[^e]** w,
  deny /proc/sys/kernel/[^ms]** w,
  deny /proc/sys/kernel/m[^s]** w,
  deny /proc/sys/kernel/s[^he]** w,
  deny /proc/sys/kernel/sh[^m]** w,
  deny /proc/sys/kernel/se[^m]** w,
  deny /proc/sys/n[^e]** w,
  deny /proc/acpi/** rwklx,
  deny /proc/kcore rwklx,
  deny /proc/kmem rwklx,
  deny /proc/mem rwklx,
  deny /proc/sysrq-trigger rwklx,

  # Of /sys only control groups.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
