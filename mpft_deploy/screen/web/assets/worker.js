"use strict";

// Shows notifications, also while no page is open; it answers no requests of pages.

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("push", (message) => {
  const { title, body, event } = message.data?.json() ?? { title: "mpft screen" };
  const tag = event ? `event ${event}` : "test"; // told twice, it is shown once
  message.waitUntil(self.registration.showNotification(title, { body, tag, icon: "/icon.svg", data: event }));
});

async function open(number) {
  const url = number ? `/#events&event=${number}` : "/";
  const [page] = await self.clients.matchAll({ type: "window" });
  return page ? (await page.navigate(url))?.focus() : self.clients.openWindow(url);
}

self.addEventListener("notificationclick", (message) => {
  message.notification.close();
  message.waitUntil(open(message.notification.data));
});
