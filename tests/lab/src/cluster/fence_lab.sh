#!/bin/bash
# Fence agent of the lab: asks the nodes' management controller, which the lab plays, over the
# management network. Speaks the fence agent API: options on standard input, NAME=VALUE a line.
action=off plug=
while IFS='=' read -r -t 5 name value; do
  case $name in
    action) action=$value ;;
    port | plug) plug=$value ;;
    nodename) plug=${plug:-$value} ;;
  esac
done
case $action in
  metadata)
    cat <<'XML'
<?xml version="1.0"?>
<resource-agent name="fence_lab" shortdesc="Power switch of the cluster lab">
 <longdesc>Ends the namespaces of a lab node.</longdesc>
 <parameters>
  <parameter name="action" required="1"><content type="string" default="off"/><shortdesc lang="en">What to do</shortdesc></parameter>
  <parameter name="plug" required="0"><content type="string"/><shortdesc lang="en">Node</shortdesc></parameter>
 </parameters>
 <actions>
  <action name="off"/><action name="status"/><action name="list"/><action name="monitor"/><action name="metadata"/>
 </actions>
</resource-agent>
XML
    exit 0
    ;;
  validate-all) exit 0 ;;
esac
exec 3<>/dev/tcp/10.99.2.254/623 || exit 1
echo "$action ${plug:--}" >&3
read -r -t 15 code answer <&3 || exit 1
[ -z "$answer" ] || echo "$answer"
exit "$code"
