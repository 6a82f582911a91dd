// SPDX-License-Identifier: GPL-2.0-or-later
// Reads a domain's XML, and has libvirt add ports to it and take them out.
#include "vmm/definition.h"

#include <libvirt/virterror.h>
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <libxml/xpath.h>
#include <string.h>

#include "vmm/domain.h"
#include "vmm/machine.h"

// libvirt keeps aliases that begin with "ua-" as they are: by this one we know our own.
#define OUR_ALIAS "ua-vmgraft-agent"

typedef xmlDoc XmlDoc;
typedef xmlXPathObject XmlFound;
typedef xmlBuffer XmlBuffer;
typedef xmlXPathContext XmlContext;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(XmlDoc, xmlFreeDoc)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(XmlFound, xmlXPathFreeObject)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(XmlBuffer, xmlBufferFree)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(XmlContext, xmlXPathFreeContext)

struct VmmDefinition {
    virConnectPtr conn;
    virDomainPtr dom;
    char uuid[VIR_UUID_STRING_BUFLEN];
    char *uri;
    char *name; // a call of libvirt, even for this, would forget its last error
};

VmmDefinition *vmm_definition_open(const char *name, const char *uri, GError **error)
{
    g_auto(vmm_target) target = {0};
    g_autoptr(VmmDefinition) def = g_new0(VmmDefinition, 1);

    if (!vmm_target_parse(name, uri, &target, error))
        return NULL;
    if (target.kind != VMM_TARGET_DOMAIN) {
        g_set_error(error, VMM_ERROR, VMM_ERROR_TARGET, "'%s' is no domain of libvirt", name);
        return NULL;
    }
    if (!vmm_domain_open(&target, &def->conn, &def->dom, error))
        return NULL;
    def->uri = virConnectGetURI(def->conn);
    def->name = g_strdup(virDomainGetName(def->dom));
    if (!def->uri || !def->name || virDomainGetUUIDString(def->dom, def->uuid) < 0) {
        vmm_domain_fail(error, name);
        return NULL;
    }
    return g_steal_pointer(&def);
}

void vmm_definition_free(VmmDefinition *def)
{
    if (!def)
        return;
    vmm_domain_close(def->conn, def->dom);
    g_free(def->uri);
    g_free(def->name);
    g_free(def);
}

const char *vmm_definition_name(const VmmDefinition *def)
{
    return def->name;
}

const char *vmm_definition_uuid(const VmmDefinition *def)
{
    return def->uuid;
}

const char *vmm_definition_uri(const VmmDefinition *def)
{
    return def->uri;
}

bool vmm_definition_is_active(const VmmDefinition *def)
{
    return virDomainIsActive(def->dom) == 1;
}

bool vmm_definition_check_off(const VmmDefinition *def, GError **error)
{
    const char *name = def->name;
    int active = virDomainIsActive(def->dom);
    int saved = active == 0 ? virDomainHasManagedSaveImage(def->dom, 0) : 0;

    if (active < 0 || saved < 0)
        return vmm_domain_fail(error, name);
    if (active == 1)
        g_set_error(error, VMM_ERROR, VMM_ERROR_STATE,
                    "domain %s is running, and its disk is its own as long as it does: shut it "
                    "down first (virsh shutdown %s)",
                    name, name);
    else if (saved == 1)
        g_set_error(error, VMM_ERROR, VMM_ERROR_STATE,
                    "domain %s is saved to disk, with a memory that knows its disk as it is now: "
                    "start it and shut it down first (virsh start %s)",
                    name, name);
    return active == 0 && saved == 0;
}

static XmlDoc *read_xml(VmmDefinition *def, GError **error)
{
    char *text = virDomainGetXMLDesc(def->dom, VIR_DOMAIN_XML_INACTIVE);
    XmlDoc *doc;

    if (!text) {
        vmm_domain_fail(error, def->name);
        return NULL;
    }
    doc = xmlReadMemory(text, (int)strlen(text), "domain.xml", NULL,
                        XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    free(text);
    if (!doc)
        g_set_error(error, VMM_ERROR, VMM_ERROR_PROTOCOL, "domain %s: libvirt's XML of it is none",
                    def->name);
    return doc;
}

static bool has_attribute(xmlNode *parent, const char *element, const char *attribute,
                          const char *wanted)
{
    for (xmlNode *at = parent->children; at; at = at->next) {
        if (at->type != XML_ELEMENT_NODE || !xmlStrEqual(at->name, BAD_CAST element))
            continue;
        xmlChar *value = xmlGetProp(at, BAD_CAST attribute);
        bool same = value && xmlStrEqual(value, BAD_CAST wanted);

        xmlFree(value);
        if (same)
            return true;
    }
    return false;
}

// The <channel> of that name; NULL where there is none. Borrowed from the document.
static xmlNode *find_channel(XmlDoc *doc, const char *port)
{
    g_autoptr(XmlContext) context = xmlXPathNewContext(doc);
    g_autoptr(XmlFound) found =
        context ? xmlXPathEvalExpression(BAD_CAST "/domain/devices/channel", context) : NULL;

    for (int i = 0; found && found->nodesetval && i < found->nodesetval->nodeNr; i++) {
        xmlNode *channel = found->nodesetval->nodeTab[i];

        if (has_attribute(channel, "target", "type", "virtio") &&
            has_attribute(channel, "target", "name", port))
            return channel;
    }
    return NULL;
}

bool vmm_definition_find_port(VmmDefinition *def, const char *port, enum vmm_port *ret,
                              GError **error)
{
    g_autoptr(XmlDoc) doc = read_xml(def, error);
    xmlNode *channel;

    if (!doc)
        return false;
    channel = find_channel(doc, port);
    if (!channel)
        *ret = VMM_PORT_ABSENT;
    else
        *ret =
            has_attribute(channel, "alias", "name", OUR_ALIAS) ? VMM_PORT_OURS : VMM_PORT_FOREIGN;
    return true;
}

static char *element_text(XmlDoc *doc, xmlNode *node)
{
    g_autoptr(XmlBuffer) buffer = xmlBufferCreate();

    if (!buffer || xmlNodeDump(buffer, doc, node, 0, 0) < 0)
        return NULL;
    return g_strdup((const char *)xmlBufferContent(buffer));
}

static char *make_channel(const char *port)
{
    g_autoptr(XmlDoc) doc = xmlNewDoc(BAD_CAST "1.0");
    xmlNode *channel = xmlNewDocNode(doc, NULL, BAD_CAST "channel", NULL);
    xmlNode *target, *alias;

    xmlDocSetRootElement(doc, channel);
    xmlNewProp(channel, BAD_CAST "type", BAD_CAST "unix");
    target = xmlNewChild(channel, NULL, BAD_CAST "target", NULL);
    xmlNewProp(target, BAD_CAST "type", BAD_CAST "virtio");
    xmlNewProp(target, BAD_CAST "name", BAD_CAST port);
    alias = xmlNewChild(channel, NULL, BAD_CAST "alias", NULL);
    xmlNewProp(alias, BAD_CAST "name", BAD_CAST OUR_ALIAS);
    return element_text(doc, channel);
}

// One device at a time, by libvirt's own hand: whatever else the definition says, and whoever
// changes it meanwhile, is left alone.
bool vmm_definition_add_port(VmmDefinition *def, const char *port, GError **error)
{
    g_autofree char *text = make_channel(port);

    if (virDomainAttachDeviceFlags(def->dom, text, VIR_DOMAIN_AFFECT_CONFIG) == 0)
        return true;
    vmm_domain_fail(error, def->name);
    g_prefix_error(error, "cannot add the port %s: ", port);
    return false;
}

bool vmm_definition_remove_port(VmmDefinition *def, const char *port, GError **error)
{
    g_autoptr(XmlDoc) doc = read_xml(def, error);
    xmlNode *channel = doc ? find_channel(doc, port) : NULL;
    g_autofree char *text = channel ? element_text(doc, channel) : NULL;

    if (!doc)
        return false;
    if (!text || virDomainDetachDeviceFlags(def->dom, text, VIR_DOMAIN_AFFECT_CONFIG) == 0)
        return true;
    vmm_domain_fail(error, def->name);
    g_prefix_error(error, "cannot take out the port %s: ", port);
    return false;
}
